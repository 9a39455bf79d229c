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
from .conditions import Verdict
from .head_loss import given_up_in_s
from .outcome import Outcome, noted
from .types import Action, DeletePods, Event, Memory, PodView


def is_suspending(memory: Memory) -> bool:
    """Whether suspension has been persisted."""
    condition = memory.conditions.get(ConditionType.SUSPENDED)
    return condition is not None and condition.reason == Reason.SUSPENDING


def begin_suspending(memory: Memory, actions: Sequence[Action], now: float) -> Outcome:
    """The first step: nothing is done before a successor would know why."""
    event = Event("Normal", Reason.SUSPENDING, "The driver saves a checkpoint; then the pods are released.")
    suspending = noted(memory, {ConditionType.SUSPENDED: _SUSPENDING}, now)
    return Outcome(suspending, "Suspending", actions, [event])


def stop_driver(memory: Memory, head: PodView, old: Sequence[Action], now: float) -> Outcome:
    """Suspension is persisted: end the driver and wait for it. The workers stay until it has saved.

    The time for that is the pod's own grace period, which users may set.
    """
    stop = [] if head.terminating else [DeletePods(((head.name, head.uid),))]
    return Outcome(memory, "Suspending", [*old, *stop], look_again_s=given_up_in_s(head, now))


def suspended(memory: Memory, actions: Sequence[Action], clean: bool, now: float) -> Outcome:
    """No attempt is at work: wait until everything is gone (`clean`), then rest."""
    if memory.active_since is not None:
        # Suspended while waiting for a retry: the clock stops here as well.
        memory = replace(memory, active_since=None, active_seconds=memory.active_s(now))
    if not clean:
        return Outcome(noted(memory, {ConditionType.SUSPENDED: _SUSPENDING}, now), "Suspending", actions)
    was = memory.holds(ConditionType.SUSPENDED)
    verdicts = {ConditionType.SUSPENDED: _SUSPENDED, **conditions.ended(Reason.SUSPENDED, _SUSPENDED.message)}
    events = [] if was else [Event("Normal", Reason.SUSPENDED, "All pods are released; storage is untouched.")]
    return Outcome(noted(memory, verdicts, now), "Suspended", events=events, alive={})


_SUSPENDING = Verdict(False, Reason.SUSPENDING, "The driver is saving a checkpoint; the pods go after it.")
_SUSPENDED = Verdict(True, Reason.SUSPENDED, "All pods are released; set runPolicy.suspend to false to go on.")
