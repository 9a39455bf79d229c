"""How does an attempt end on request?

In steps, each persisted before the next: the job is noted as suspending, then the driver gets SIGTERM and time to
save a checkpoint while its workers stay, then the attempt is over and everything of it goes. Once begun it is carried
through: a job that is resumed meanwhile goes on with a new attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scaling_api.reasons import ConditionType, Reason

from . import conditions
from .clean_up import is_clean
from .conditions import Verdict
from .head_loss import given_up_in_s
from .outcome import Outcome, noted, sooner
from .types import Action, DeletePods, Event, Memory, Observed, PodView


def is_suspending(memory: Memory) -> bool:
    """Whether suspension has been persisted."""
    condition = memory.conditions.get(ConditionType.SUSPENDED)
    return condition is not None and condition.reason == Reason.SUSPENDING


def begin_suspending(memory: Memory, actions: Sequence[Action], now: float) -> Outcome:
    """The first step: nothing is done before a successor would know why."""
    event = Event("Normal", Reason.SUSPENDING, "The driver saves a checkpoint; then the pods are released.")
    suspending = noted(memory, {ConditionType.SUSPENDED: _SUSPENDING}, now)
    return Outcome(suspending, "Suspending", actions, [event])


def stop_driver(memory: Memory, phase: str, head: PodView, old: Sequence[Action], now: float) -> Outcome:
    """Why is persisted (suspension, or the deadline): end the driver and wait. The workers stay until it has saved.

    The time for that is the pod's own grace period, which users may set.
    """
    stop = [] if head.terminating else [DeletePods(((head.name, head.uid),))]
    return Outcome(memory, phase, [*old, *stop], look_again_s=given_up_in_s(head, now))


def suspended(observed: Observed, actions: Sequence[Action], now: float) -> Outcome:
    """No attempt is at work: wait until everything is gone, or given up, then rest."""
    memory = observed.memory
    if memory.active_since is not None:
        # Suspended while waiting for a retry: the clock stops here as well.
        memory = replace(memory, active_since=None, active_seconds=memory.active_s(now))
    if not is_clean(observed, now):
        again_s = sooner(*(given_up_in_s(pod, now) for pod in observed.pods))
        waiting = noted(memory, {ConditionType.SUSPENDED: _releasing(observed.pods)}, now)
        return Outcome(waiting, "Suspending", actions, look_again_s=again_s)
    was = memory.holds(ConditionType.SUSPENDED)
    rests = _resting(observed.pods)
    verdicts = {ConditionType.SUSPENDED: rests, **conditions.ended(Reason.SUSPENDED, rests.message)}
    events = [] if was else [Event("Normal", Reason.SUSPENDED, "All pods are released; storage is untouched.")]
    return Outcome(noted(memory, verdicts, now), "Suspended", events=events, alive={})


_SUSPENDING = Verdict(False, Reason.SUSPENDING, "The driver is saving a checkpoint; the pods go after it.")


def _releasing(pods: Sequence[PodView]) -> Verdict:
    names = sorted(pod.name for pod in pods)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    what = f"pod {names[0]}{more} to go" if names else "the last objects to go"
    return Verdict(False, Reason.SUSPENDING, f"Waiting for {what}.")


def _resting(stuck: Sequence[PodView]) -> Verdict:
    names = ", ".join(sorted(pod.name for pod in stuck)[:3])
    but = f" but for those on nodes that do not answer ({names})" if stuck else ""
    return Verdict(True, Reason.SUSPENDED, f"All pods are released{but}; set runPolicy.suspend to false to go on.")
