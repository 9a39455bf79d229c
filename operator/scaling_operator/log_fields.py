"""What every log record about a job carries: which one, and the attempt that it is at."""

from __future__ import annotations

from typing import Any

from .runtime.objects import Key
from .runtime.store import Store


def job_fields(jobs: Store, key: Key) -> dict[str, Any]:
    """Fields for `logs.bound`; no attempt before the first one has begun, or for a job that `jobs` does not hold."""
    manifest = jobs.get(*key)
    attempt = (manifest.get("status") or {}).get("attempt") if manifest is not None else None
    return {"namespace": key.namespace, "job": key.name} | ({"attempt": attempt} if attempt else {})
