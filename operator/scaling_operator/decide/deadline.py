"""Has the job been active for too long? Time while it was suspended does not count."""

from __future__ import annotations

from scaling_api.spec import RunPolicy

from .types import Memory


def deadline_left_s(policy: RunPolicy, memory: Memory, *, now: float) -> float | None:
    """Seconds left, 0 or less when the deadline has passed, None without a deadline."""
    if policy.active_deadline_seconds is None:
        return None
    return policy.active_deadline_seconds - memory.active_s(now)
