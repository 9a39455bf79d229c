"""When may the next attempt start, and is there one?

The first failure is followed at once: most heads are lost to their node, not to their own fault. Then the pause
doubles from 10 s to 5 minutes. More failures than `backoffLimit` end the job.

Attempts that the cluster took away do not count as failures. So that a cluster which does nothing else is no storm,
attempts begin that far apart as well; one that has lived for some minutes is followed at once.
"""

from __future__ import annotations

from .types import Memory

FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 300.0


def due_at(memory: Memory) -> float | None:
    """When the next attempt may begin; None when nothing stands against it."""
    last = memory.last
    if last is None or last.ended_at is None or last.outcome != "Failed":
        return None
    lost = sum(record.outcome == "Failed" for record in memory.attempts)
    return max(last.ended_at + pause_after(memory.failures), last.started_at + pause_after(lost))


def pause_after(failures: int) -> float:
    """Seconds of the pause after so many failures in all."""
    if failures <= 1:
        return 0.0
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 2, 10)))


def is_exhausted(failures: int, backoff_limit: int) -> bool:
    """Whether there is no further attempt."""
    return failures > backoff_limit
