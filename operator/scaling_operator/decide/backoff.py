"""When may the next attempt start, and is there one?

The first failure is followed at once: most heads are lost to their node, not to their own fault. Then the pause
doubles from 10 s to 5 minutes. More failures than `backoffLimit` end the job.
"""

from __future__ import annotations

FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 300.0


def pause_after(failures: int) -> float:
    """Seconds from the end of an attempt to the next one's start, after so many failures in all."""
    if failures <= 1:
        return 0.0
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 2, 10)))


def is_exhausted(failures: int, backoff_limit: int) -> bool:
    """Whether there is no further attempt."""
    return failures > backoff_limit
