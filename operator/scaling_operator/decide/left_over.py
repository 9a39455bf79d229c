"""What of a driver's last report no longer holds?

A driver that is killed leaves behind what it said last: a stage at work, and a time that is left. Its fields of the
status are written by its reports alone, but with the end of its attempt nobody reports any more, so the leader puts
them right, in the write that shows the end. The driver of the next attempt says everything anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .types import Memory


def settled(status: Mapping[str, Any], memory: Memory) -> dict[str, Any]:
    """Changes of `progress` and `stages`, as merge patches; empty while an attempt is at work or all is well."""
    if memory.current is not None or memory.last is None or memory.last.outcome == "Succeeded":
        return {}
    progress, stages = status.get("progress") or {}, status.get("stages") or []
    changes: dict[str, Any] = {}
    at_work = any(stage.get("state") == "Running" for stage in stages)
    if progress and (at_work or "etaSeconds" in progress):
        changes["progress"] = {"summary": f"stopped at {progress.get('percent', 0.0):.0f}%", "etaSeconds": None}
    if at_work:
        ended = "Failed" if memory.has_ended else "Pending"
        changes["stages"] = [
            {**stage, "state": ended} if stage.get("state") == "Running" else stage for stage in stages
        ]
    return changes
