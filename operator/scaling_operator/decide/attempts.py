"""Changes of memory when an attempt begins or ends. Each returns what should be persisted next."""

from __future__ import annotations

from dataclasses import replace

from scaling_api.reasons import ConditionType, Failure, Reason

from . import conditions
from .backoff import is_exhausted
from .conditions import Verdict
from .types import AttemptRecord, Memory, Trouble


def begin(memory: Memory, *, digest: str, now: float) -> Memory:
    """The next attempt, with fresh incarnations."""
    number = memory.last.number + 1 if memory.last is not None else 1
    verdicts = {
        ConditionType.CLUSTER_READY: Verdict(False, Reason.WAITING_FOR_HEAD, "The head pod is starting."),
        ConditionType.RUNNING: conditions.running(None),
        ConditionType.SUSPENDED: Verdict(False, Reason.ACTIVE, "The job is active."),
    }
    return replace(
        memory,
        attempts=(*memory.attempts, AttemptRecord(number, now, digest=digest)),
        incarnations={},
        replaced={},
        started_at=memory.started_at if memory.started_at is not None else now,
        active_since=memory.active_since if memory.active_since is not None else now,
        conditions=conditions.merged(memory.conditions, verdicts, now=now),
    )


def succeed(memory: Memory, *, now: float) -> Memory:
    """The attempt has done the job's work."""
    ended = _end_attempt(memory, "Succeeded", Reason.COMPLETED, "The driver has done its work.", now=now)
    return _end_job(ended, ConditionType.SUCCEEDED, Verdict(True, Reason.COMPLETED, "All stages are done."), now=now)


def fail(memory: Memory, trouble: Trouble, *, backoff_limit: int, final: bool, now: float) -> Memory:
    """The attempt is lost, and with it the job if that is `final` or no attempt is left."""
    ended = _end_attempt(memory, "Failed", trouble.reason, trouble.message, now=now)
    if trouble.blameless:
        return ended
    ended = replace(ended, failures=memory.failures + 1)
    if final:
        return fail_job(ended, trouble, now=now)
    if is_exhausted(ended.failures, backoff_limit):
        return fail_job(
            ended,
            Trouble(
                Failure.BACKOFF_LIMIT,
                f"{ended.failures} attempts failed and runPolicy.backoffLimit is {backoff_limit}; "
                f"the last: {trouble.message}",
            ),
            now=now,
        )
    return ended


def suspend(memory: Memory, *, now: float) -> Memory:
    """The attempt was ended on request; the clock of activeDeadlineSeconds stops."""
    ended = _end_attempt(memory, "Suspended", Reason.SUSPENDED, "The job was suspended.", now=now)
    return replace(ended, active_since=None, active_seconds=memory.active_s(now))


def fail_job(memory: Memory, trouble: Trouble, *, now: float) -> Memory:
    """The job has failed, with or without an attempt at work."""
    if memory.current is not None:
        memory = _end_attempt(memory, "Failed", trouble.reason, trouble.message, now=now)
    return _end_job(memory, ConditionType.FAILED, Verdict(True, trouble.reason, trouble.message), now=now)


def _end_attempt(memory: Memory, outcome: str, reason: str, message: str, *, now: float) -> Memory:
    assert memory.current is not None
    record = replace(memory.current, ended_at=now, outcome=outcome, reason=str(reason), message=message)
    verdicts = conditions.ended()
    if ConditionType.STALLED in memory.conditions:
        verdicts[ConditionType.STALLED] = verdicts[ConditionType.RUNNING]
    return replace(
        memory,
        attempts=(*memory.attempts[:-1], record),
        conditions=conditions.merged(memory.conditions, verdicts, now=now),
    )


def _end_job(memory: Memory, kind: ConditionType, verdict: Verdict, *, now: float) -> Memory:
    return replace(
        memory,
        finished_at=now,
        active_since=None,
        active_seconds=memory.active_s(now),
        conditions=conditions.merged(memory.conditions, {kind: verdict}, now=now),
    )
