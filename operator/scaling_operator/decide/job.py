"""What should be done about a job now? Composes the policies.

A job is in one of three places: it has ended, an attempt is at work, or none is. What is done follows from what is
*persisted*: an attempt that has just been decided gets its objects only when the next reconcile finds it in the
status, and so does the replacement of a worker. So nothing is ever created that a restarted operator, or another
leader, would not know of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from scaling_api.reasons import ConditionType, Failure, Reason

from . import attempts, conditions
from .at_work import keep_at_work
from .backoff import due_at
from .clean_up import clean_up, clean_up_after_the_end
from .conditions import Verdict
from .deadline import begin_expiring, deadline_left_s, expired, in_time, is_expiring, phase_of
from .head_loss import HeadFine, HeadLost, HeadMissing, HeadStopping, HeadSucceeded, driver_may_run, judge_head
from .left_over import settled
from .outcome import Outcome, noted, sooner
from .pod_sets import pod_sets, workers_among
from .status import MAX_MESSAGE, is_urgent, render, summarise
from .suspend import begin_suspending, is_suspending, stop_driver, suspended
from .ttl import time_to_live_s
from .types import (
    Action,
    AttemptRecord,
    Decision,
    DeleteJob,
    Event,
    Job,
    Memory,
    Observed,
)


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
        outcome = _between(job, observed, now) if current is None else _during(job, observed, status, current, now)
        outcome = replace(outcome, events=[*refused, *outcome.events])
    return _decision(job, observed, status, outcome)


def _decision(job: Job, observed: Observed, status: Mapping[str, object], outcome: Outcome) -> Decision:
    memory = outcome.memory
    if outcome.alive is not None:
        groups, workers = summarise(pod_sets(job.spec.cluster), outcome.alive, memory.replaced)
        rendered = render(memory, phase=outcome.phase, generation=observed.generation, groups=groups, workers=workers)
    else:
        rendered = render(memory, phase=outcome.phase, generation=observed.generation, groups=None, workers=None)
        rendered |= {name: status.get(name) for name in ("workerGroups", "workers")}
    return Decision(
        actions=tuple(outcome.actions),
        status=rendered | settled(status, memory, observed, job.name),
        urgent=is_urgent(status, rendered),
        events=tuple(outcome.events),
        look_again_s=outcome.look_again_s,
    )


def _after_the_end(job: Job, observed: Observed, now: float) -> Outcome:
    """Clean up, and delete the job when its time has come."""
    policy = job.spec.run_policy
    memory = replace(observed.memory, conditions=conditions.lasting(observed.memory.conditions))
    phase = "Succeeded" if memory.holds(ConditionType.SUCCEEDED) else "Failed"
    ended_at = memory.finished_at or now
    left_s = time_to_live_s(policy, ended_at, now=now)
    if left_s is not None and left_s <= 0:
        return Outcome(memory, phase, [DeleteJob()])
    actions, more_s = clean_up_after_the_end(observed, policy.clean_pod_policy, ended_at, now=now)
    return Outcome(memory, phase, actions, look_again_s=sooner(left_s, more_s))


def _between(job: Job, observed: Observed, now: float) -> Outcome:
    """No attempt is at work: begin the next one, unless something stands against it."""
    memory, policy = observed.memory, job.spec.run_policy
    actions = clean_up(observed)
    if policy.suspend:
        return suspended(observed, actions, now)
    left_s = deadline_left_s(policy, memory, now=now)
    if left_s is not None and left_s <= 0:
        return expired(policy, memory, actions, now)
    if job.invalid is not None:
        return Outcome(memory, "Pending", actions)
    due = due_at(memory)
    if due is not None and due > now:
        return Outcome(memory, "Restarting", actions, look_again_s=sooner(due - now, left_s))
    was_suspended = memory.last is not None and memory.last.outcome == "Suspended"
    begun = attempts.begin(memory, digest=observed.digest, now=now)
    begun = noted(begun, {ConditionType.UP_TO_DATE: conditions.up_to_date(True)}, now)
    assert begun.current is not None
    number = begun.current.number
    reason = Reason.RESUMED if was_suspended else Reason.ATTEMPT_STARTED
    event = Event("Normal", reason, f"Attempt {number} starts a Ray cluster: a head and {_wanted(job)} workers.")
    phase = "Starting" if number == 1 else "Restarting"
    return Outcome(begun, phase, actions, [event], alive={})


def _during(job: Job, observed: Observed, status: Mapping[str, object], current: AttemptRecord, now: float) -> Outcome:
    """An attempt is at work: has it ended, should it end, and if neither, what is missing?"""
    memory, policy = observed.memory, job.spec.run_policy
    old = clean_up(observed, except_attempt=current.number)
    suspending, expiring = is_suspending(memory), is_expiring(memory)
    head = observed.head(current.number)
    if (suspending or expiring) and driver_may_run(head, now):
        return stop_driver(memory, "Suspending" if suspending else phase_of(memory), head, old, now)
    verdict = judge_head(observed, job, current.number, now=now)
    if isinstance(verdict, HeadSucceeded):
        event = Event("Normal", Reason.COMPLETED, f"Attempt {current.number} has done the job's work.")
        return Outcome(attempts.succeed(in_time(memory), now=now), "Succeeded", old, [event])
    would_be_met_again = isinstance(verdict, HeadLost) and verdict.final
    if suspending and not would_be_met_again:
        return Outcome(attempts.suspend(memory, now=now), "Suspending", old)
    if expiring and not would_be_met_again:
        return expired(policy, memory, old, now)
    if isinstance(verdict, HeadLost):
        return _lost(job, memory, verdict, old, now)
    left_s = deadline_left_s(policy, memory, now=now)
    if left_s is not None and left_s <= 0:
        return begin_expiring(policy, memory, old, now)
    if policy.suspend:
        return begin_suspending(memory, old, now)
    if isinstance(verdict, HeadStopping):
        return _stopping(memory, verdict, old, left_s, now)
    waiting_s = verdict.look_again_s if isinstance(verdict, HeadFine) else None
    outcome = keep_at_work(job, observed, status, current, isinstance(verdict, HeadMissing), now)
    return replace(
        outcome,
        actions=[*old, *outcome.actions],
        look_again_s=sooner(outcome.look_again_s, left_s, waiting_s),
    )


def _stopping(
    memory: Memory, verdict: HeadStopping, old: Sequence[Action], left_s: float | None, now: float
) -> Outcome:
    """The head is being taken away: its workers stay until the driver has saved, and none is replaced."""
    trouble = verdict.trouble
    going = Verdict(False, trouble.reason, f"The driver saves a checkpoint: {trouble.message}")
    again_s = sooner(verdict.look_again_s, left_s)
    return Outcome(noted(memory, {ConditionType.CLUSTER_READY: going}, now), "Restarting", old, look_again_s=again_s)


def _lost(job: Job, memory: Memory, verdict: HeadLost, old: Sequence[Action], now: float) -> Outcome:
    trouble, limit = verdict.trouble, job.spec.run_policy.backoff_limit
    after = attempts.fail(memory, trouble, backoff_limit=limit, final=verdict.final, now=now)
    events = [Event("Warning", trouble.reason, trouble.message)]
    if after.has_ended:
        failed = after.conditions[ConditionType.FAILED]
        if failed.reason != trouble.reason:
            events.append(Event("Warning", failed.reason, failed.message))
        return Outcome(after, "Failed", old, events)
    left = limit - after.failures
    events.append(Event("Normal", Reason.RETRYING, f"The next attempt resumes from the last checkpoint; {left} more."))
    return Outcome(after, "Restarting", old, events)


def _refused_events(job: Job, memory: Memory) -> list[Event]:
    before = memory.conditions.get(ConditionType.ACCEPTED)
    if job.invalid is None or (before is not None and before.message == job.invalid[:MAX_MESSAGE]):
        return []
    return [Event("Warning", Failure.INVALID_SPEC, job.invalid)]


def _wanted(job: Job) -> int:
    return sum(group.count for group in workers_among(pod_sets(job.spec.cluster)))
