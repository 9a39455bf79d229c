"""When is a finished job deleted? Its storage never is."""

from __future__ import annotations

from scaling_api.spec import RunPolicy


def time_to_live_s(policy: RunPolicy, finished_at: float, *, now: float) -> float | None:
    """Seconds until deletion, 0 or less when it is due, None when the job stays."""
    if policy.ttl_seconds_after_finished is None:
        return None
    return finished_at + policy.ttl_seconds_after_finished - now
