"""Has the job been active for too long, and how does it end then?

As it is suspended: that its time is over is persisted first, then the driver gets SIGTERM and time to save a checkpoint
while its workers stay, then the job has failed. Once begun it is carried through, whatever is edited meanwhile; but a
driver that finishes after all has done the job's work. Time while it was suspended does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scaling_api.reasons import ConditionType, Failure
from scaling_api.spec import RunPolicy

from . import attempts
from .conditions import Verdict
from .outcome import Outcome, noted
from .types import Action, Event, Memory, Trouble


def deadline_left_s(policy: RunPolicy, memory: Memory, *, now: float) -> float | None:
    """Seconds left, 0 or less when the deadline has passed, None without a deadline."""
    if policy.active_deadline_seconds is None:
        return None
    return policy.active_deadline_seconds - memory.active_s(now)


def is_expiring(memory: Memory) -> bool:
    """Whether it has been persisted that the job's time is over, with an attempt still at work."""
    condition = memory.conditions.get(ConditionType.FAILED)
    return condition is not None and condition.status == "False" and condition.reason == Failure.DEADLINE_EXCEEDED


def begin_expiring(policy: RunPolicy, memory: Memory, actions: Sequence[Action], now: float) -> Outcome:
    """The first step: nothing is done before a successor would know why."""
    message = f"{_too_long(policy)}: the driver saves a checkpoint; then the job ends."
    verdict = Verdict(False, Failure.DEADLINE_EXCEEDED, message)
    event = Event("Warning", Failure.DEADLINE_EXCEEDED, message)
    return Outcome(noted(memory, {ConditionType.FAILED: verdict}, now), phase_of(memory), actions, [event])


def expired(policy: RunPolicy, memory: Memory, actions: Sequence[Action], now: float) -> Outcome:
    """No driver is at work any more: the job has failed."""
    trouble = Trouble(
        Failure.DEADLINE_EXCEEDED,
        f"{_too_long(policy)}; a new job with storage.resumeFrom goes on from its last checkpoint",
    )
    event = Event("Warning", trouble.reason, trouble.message)
    return Outcome(attempts.fail_job(memory, trouble, now=now), "Failed", actions, [event])


def in_time(memory: Memory) -> Memory:
    """The driver has finished, if after its time: nothing of that stands beside the success."""
    kept = {kind: found for kind, found in memory.conditions.items() if kind != ConditionType.FAILED}
    return replace(memory, conditions=kept)


def phase_of(memory: Memory) -> str:
    """The phase of a job whose driver is given time to save."""
    return "Running" if memory.holds(ConditionType.RUNNING) else "Starting"


def _too_long(policy: RunPolicy) -> str:
    limit = policy.active_deadline_seconds
    told = f" ({limit} s)" if limit is not None else ""
    return f"the job was active for longer than runPolicy.activeDeadlineSeconds{told}"
