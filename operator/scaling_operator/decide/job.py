"""What should be done about a job now? Composes the policies.

A job is in one of three places: it has ended, an attempt is at work, or none is. What is done follows from what is
*persisted*: an attempt that has just been decided gets its objects only when the next reconcile finds it in the
status, and so does the replacement of a worker. So nothing is ever created that a restarted operator, or another
leader, would not know of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from scaling_api.driver import CONTAINER_DRIVER
from scaling_api.reasons import ConditionType, Failure, Reason

from . import attempts, conditions
from .backoff import pause_after
from .clean_up import clean_up, is_clean
from .conditions import Verdict
from .deadline import deadline_left_s
from .failure import known_in_s
from .head_loss import HeadFine, HeadLost, HeadMissing, HeadSucceeded, judge_head
from .status import MAX_MESSAGE, is_urgent, render, summarise
from .ttl import time_to_live_s
from .types import (
    Action,
    AttemptRecord,
    CreateWorkers,
    Decision,
    DeleteJob,
    DeletePods,
    EnsureAttempt,
    Event,
    Job,
    Memory,
    Observed,
    PodView,
    Trouble,
)
from .workers import WorkerPlan, plan_workers, raised

# Time for the driver to save a checkpoint when the job is suspended.
SUSPEND_GRACE_S = 120
# A head that still terminates so long after its grace period is on a node that does not answer.
GIVE_UP_ON_HEAD_S = 60.0


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a situation leads to, before it is written down as a Decision."""

    memory: Memory
    phase: str
    actions: Sequence[Action] = ()
    events: Sequence[Event] = ()
    look_again_s: float | None = None
    # Worker pods at work, by group; None keeps what the status says of them.
    alive: Mapping[str, Sequence[PodView]] | None = None


def decide(job: Job, observed: Observed, status: Mapping[str, object], *, now: float) -> Decision:
    """The decision about `job`, whose persisted status is `status` (of which `observed.memory` is the reading)."""
    memory = observed.memory
    if memory.has_ended:
        outcome = _after_the_end(job, observed, now)
    else:
        refused = _refused_events(job, memory)
        accepted = {ConditionType.ACCEPTED: conditions.accepted(job.invalid)}
        memory = replace(memory, conditions=conditions.merged(memory.conditions, accepted, now=now))
        observed = replace(observed, memory=memory)
        current = memory.current
        outcome = _between(job, observed, now) if current is None else _during(job, observed, current, now)
        outcome = replace(outcome, events=[*refused, *outcome.events])
    return _decision(job, observed, status, outcome)


def _decision(job: Job, observed: Observed, status: Mapping[str, object], outcome: _Outcome) -> Decision:
    memory = outcome.memory
    if outcome.alive is not None:
        groups, workers = summarise(job.spec.cluster.workers, outcome.alive, memory.incarnations)
        rendered = render(memory, phase=outcome.phase, generation=observed.generation, groups=groups, workers=workers)
    else:
        rendered = render(memory, phase=outcome.phase, generation=observed.generation, groups=None, workers=None)
        rendered |= {name: status.get(name) for name in ("workerGroups", "workers")}
    return Decision(
        actions=tuple(outcome.actions),
        status=rendered,
        urgent=is_urgent(status, rendered),
        events=tuple(outcome.events),
        look_again_s=outcome.look_again_s,
    )


def _after_the_end(job: Job, observed: Observed, now: float) -> _Outcome:
    """Clean up, and delete the job when its time has come."""
    memory, policy = observed.memory, job.spec.run_policy
    phase = "Succeeded" if memory.holds(ConditionType.SUCCEEDED) else "Failed"
    left_s = time_to_live_s(policy, memory.finished_at or now, now=now)
    if left_s is not None and left_s <= 0:
        return _Outcome(memory, phase, [DeleteJob()])
    actions = clean_up(observed, policy=policy.clean_pod_policy)
    return _Outcome(memory, phase, actions, look_again_s=left_s)


def _between(job: Job, observed: Observed, now: float) -> _Outcome:
    """No attempt is at work: begin the next one, unless something stands against it."""
    memory, policy = observed.memory, job.spec.run_policy
    actions = clean_up(observed)
    if policy.suspend:
        return _suspended(memory, actions, is_clean(observed), now)
    left_s = deadline_left_s(policy, memory, now=now)
    if left_s is not None and left_s <= 0:
        return _past_deadline(job, memory, actions, now)
    if job.invalid is not None:
        return _Outcome(memory, "Pending", actions)
    due_s = 0.0
    if memory.last is not None and memory.last.outcome == "Failed":
        due_s = (memory.last.ended_at or now) + pause_after(memory.failures) - now
    if due_s > 0:
        return _Outcome(memory, "Restarting", actions, look_again_s=_sooner(due_s, left_s))
    was_suspended = memory.last is not None and memory.last.outcome == "Suspended"
    begun = attempts.begin(memory, digest=observed.digest, now=now)
    begun = _noted(begun, {ConditionType.UP_TO_DATE: conditions.up_to_date(True)}, now)
    assert begun.current is not None
    number = begun.current.number
    reason = Reason.RESUMED if was_suspended else Reason.ATTEMPT_STARTED
    event = Event("Normal", reason, f"Attempt {number} starts a Ray cluster: a head and {_wanted(job)} workers.")
    phase = "Starting" if number == 1 else "Restarting"
    return _Outcome(begun, phase, actions, [event], alive={})


def _suspended(memory: Memory, actions: Sequence[Action], clean: bool, now: float) -> _Outcome:
    if memory.active_since is not None:
        # Suspended while waiting for a retry: the clock stops here as well.
        memory = replace(memory, active_since=None, active_seconds=memory.active_s(now))
    if not clean:
        return _Outcome(_noted(memory, {ConditionType.SUSPENDED: _SUSPENDING}, now), "Suspending", actions)
    was = memory.holds(ConditionType.SUSPENDED)
    verdicts = {ConditionType.SUSPENDED: _SUSPENDED, **conditions.ended(Reason.SUSPENDED, _SUSPENDED.message)}
    events = [] if was else [Event("Normal", Reason.SUSPENDED, "All pods are released; storage is untouched.")]
    return _Outcome(_noted(memory, verdicts, now), "Suspended", events=events, alive={})


def _during(job: Job, observed: Observed, current: AttemptRecord, now: float) -> _Outcome:
    """An attempt is at work: has it ended, should it end, and if neither, what is missing?"""
    memory, policy = observed.memory, job.spec.run_policy
    old = clean_up(observed, except_attempt=current.number)
    suspending = _is_suspending(memory)
    head = observed.head(current.number)
    if suspending and _driver_may_run(head, now):
        return _stop_driver(memory, head, old, now)
    verdict = judge_head(observed, job.name, current.number, now=now)
    if isinstance(verdict, HeadSucceeded):
        event = Event("Normal", Reason.COMPLETED, f"Attempt {current.number} has done the job's work.")
        return _Outcome(attempts.succeed(memory, now=now), "Succeeded", old, [event])
    if suspending and not (isinstance(verdict, HeadLost) and verdict.final):
        return _Outcome(attempts.suspend(memory, now=now), "Suspending", old)
    if isinstance(verdict, HeadLost):
        return _lost(job, memory, verdict, old, now)
    left_s = deadline_left_s(policy, memory, now=now)
    if left_s is not None and left_s <= 0:
        return _past_deadline(job, memory, old, now)
    if policy.suspend:
        event = Event("Normal", Reason.SUSPENDING, "The driver saves a checkpoint; then the pods are released.")
        suspending_now = _noted(memory, {ConditionType.SUSPENDED: _SUSPENDING}, now)
        return _Outcome(suspending_now, "Suspending", old, [event])
    waiting_s = verdict.look_again_s if isinstance(verdict, HeadFine) else None
    outcome = _at_work(job, observed, current, isinstance(verdict, HeadMissing), now)
    return replace(
        outcome,
        actions=[*old, *outcome.actions],
        look_again_s=_sooner(outcome.look_again_s, left_s, waiting_s),
    )


def _at_work(job: Job, observed: Observed, current: AttemptRecord, head_missing: bool, now: float) -> _Outcome:
    memory, groups, number = observed.memory, job.spec.cluster.workers, current.number
    plan = plan_workers(groups, observed, job.name, number, now=now)
    head = observed.head(number)
    ready = conditions.cluster_ready(groups, head, plan.alive, observed.refusal, now=now)
    running = conditions.running(head)
    verdicts = {
        ConditionType.CLUSTER_READY: ready,
        ConditionType.RUNNING: running,
        ConditionType.SUSPENDED: Verdict(False, Reason.ACTIVE, "The job is active."),
        ConditionType.UP_TO_DATE: conditions.up_to_date(current.digest in (None, observed.digest)),
    }
    before = memory.conditions.get(ConditionType.CLUSTER_READY)
    events = [_replacement(loss.slot.key, loss.trouble) for loss in plan.losses[:_MAX_LOSS_EVENTS]]
    if ready.reason in _FAILURES and (before is None or before.reason != ready.reason):
        events.append(Event("Warning", ready.reason, ready.message))
    memory = replace(memory, incarnations=raised(memory.incarnations, plan.losses))
    phase = _phase(ready, running, number, memory)
    actions = _actions(observed, number, head_missing, plan)
    again_s = _sooner(plan.look_again_s, *(known_in_s(pod, now=now) for pod in observed.pods))
    return _Outcome(_noted(memory, verdicts, now), phase, actions, events, again_s, plan.alive)


def _actions(observed: Observed, attempt: int, head_missing: bool, plan: WorkerPlan) -> list[Action]:
    ensure = EnsureAttempt(
        attempt,
        head=head_missing,
        service=attempt not in observed.services,
        policy=attempt not in observed.policies,
    )
    actions: list[Action] = [ensure] if ensure.head or ensure.service or ensure.policy else []
    if plan.create:
        actions.append(CreateWorkers(attempt, plan.create))
    if plan.delete:
        actions.append(DeletePods(tuple((pod.name, pod.uid) for pod in plan.delete)))
    return actions


def _phase(ready: Verdict, running: Verdict, attempt: int, memory: Memory) -> str:
    if ready.holds and running.holds:
        return "Running"
    if attempt > 1 or memory.incarnations:
        return "Restarting"
    return "Pending" if ready.reason in _FAILURES else "Starting"


def _stop_driver(memory: Memory, head: PodView, old: Sequence[Action], now: float) -> _Outcome:
    """Suspension is persisted: end the driver and wait for it. The workers stay until it has saved."""
    stop = [] if head.terminating else [DeletePods(((head.name, head.uid),), SUSPEND_GRACE_S)]
    again_s = head.gone_by + GIVE_UP_ON_HEAD_S - now if head.gone_by is not None else None
    return _Outcome(memory, "Suspending", [*old, *stop], look_again_s=again_s)


def _lost(job: Job, memory: Memory, verdict: HeadLost, old: Sequence[Action], now: float) -> _Outcome:
    trouble, limit = verdict.trouble, job.spec.run_policy.backoff_limit
    after = attempts.fail(memory, trouble, backoff_limit=limit, final=verdict.final, now=now)
    events = [Event("Warning", trouble.reason, trouble.message)]
    if after.has_ended:
        failed = after.conditions[ConditionType.FAILED]
        if failed.reason != trouble.reason:
            events.append(Event("Warning", failed.reason, failed.message))
        return _Outcome(after, "Failed", old, events)
    left = limit - after.failures
    events.append(Event("Normal", Reason.RETRYING, f"The next attempt resumes from the last checkpoint; {left} more."))
    return _Outcome(after, "Restarting", old, events)


def _past_deadline(job: Job, memory: Memory, actions: Sequence[Action], now: float) -> _Outcome:
    trouble = Trouble(
        Failure.DEADLINE_EXCEEDED,
        f"the job was active for longer than runPolicy.activeDeadlineSeconds "
        f"({job.spec.run_policy.active_deadline_seconds} s); a new job with storage.resumeFrom goes on from its "
        "last checkpoint",
    )
    event = Event("Warning", trouble.reason, trouble.message)
    return _Outcome(attempts.fail_job(memory, trouble, now=now), "Failed", actions, [event])


def _driver_may_run(head: PodView | None, now: float) -> TypeGuard[PodView]:
    if head is None or head.is_over:
        return False
    if head.gone_by is not None and now >= head.gone_by + GIVE_UP_ON_HEAD_S:
        return False
    driver = head.containers.get(CONTAINER_DRIVER)
    return driver is None or driver.state != "terminated"


def _is_suspending(memory: Memory) -> bool:
    condition = memory.conditions.get(ConditionType.SUSPENDED)
    return condition is not None and condition.reason == Reason.SUSPENDING


def _noted(memory: Memory, verdicts: conditions.Verdicts, now: float) -> Memory:
    return replace(memory, conditions=conditions.merged(memory.conditions, verdicts, now=now))


def _refused_events(job: Job, memory: Memory) -> list[Event]:
    before = memory.conditions.get(ConditionType.ACCEPTED)
    if job.invalid is None or (before is not None and before.message == job.invalid[:MAX_MESSAGE]):
        return []
    return [Event("Warning", Failure.INVALID_SPEC, job.invalid)]


def _replacement(slot: str, trouble: Trouble) -> Event:
    return Event("Warning", Reason.WORKER_REPLACED, f"Worker {slot} is replaced: {trouble.message}.")


def _wanted(job: Job) -> int:
    return sum(group.max for group in job.spec.cluster.workers)


def _sooner(*waits: float | None) -> float | None:
    return min((wait for wait in waits if wait is not None), default=None)


_SUSPENDING = Verdict(False, Reason.SUSPENDING, "The driver is saving a checkpoint; the pods go after it.")
_SUSPENDED = Verdict(True, Reason.SUSPENDED, "All pods are released; set runPolicy.suspend to false to go on.")
_FAILURES = frozenset(str(failure) for failure in Failure)
# Of a node with many workers that is lost, some say enough.
_MAX_LOSS_EVENTS = 3
