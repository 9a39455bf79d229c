"""What is missing in a driver's last report, and what of it no longer holds?

A driver that is killed leaves behind what it said last: a stage at work, and a time that is left. One that has
succeeded while the operator was away leaves its last report in the termination message alone. Its fields of the
status are written by its reports, but with the end of its attempt nobody reports any more, so the leader puts
them right, in the write that shows the end. The driver of the next attempt says everything anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from scaling_api.driver import CONTAINER_DRIVER, ProgressReport

from .types import Memory, Observed, PodView

# What progress says of a stage that is at work, and of no other.
_OF_WORK = ("etaSeconds", "stalledSince")


def settled(status: Mapping[str, Any], memory: Memory, observed: Observed, job: str) -> dict[str, Any]:
    """Changes of the driver's fields, as merge patches; empty while an attempt is at work or all is well.

    `status` is what was persisted, `memory` what will be, together with the changes; `job` is the job's name.
    """
    if memory.current is not None or memory.last is None:
        return {}
    if memory.last.outcome == "Succeeded":
        return _completed(status, memory.last.number, observed.last_head(job, memory.last.number))
    return _broken_off(status, "Failed" if memory.has_ended else "Pending")


def _completed(status: Mapping[str, Any], attempt: int, head: PodView | None) -> dict[str, Any]:
    # A result comes with the last report only: with it, all the rest is there too.
    if status.get("reportedAttempt") == attempt and "result" in status:
        return {}
    told = _last_words(head, attempt)
    after = dict(status) if told is None else {**status, **told.to_status()}
    if progress := after.get("progress"):
        kept = {name: value for name, value in progress.items() if name not in _OF_WORK}
        after["progress"] = {**kept, "percent": 100.0, "summary": "done"}
    if stages := after.get("stages"):
        after["stages"] = [_ended(stage, "Succeeded") for stage in stages]
    return {name: _instead(status.get(name), value) for name, value in after.items() if value != status.get(name)}


def _broken_off(status: Mapping[str, Any], ended: str) -> dict[str, Any]:
    progress, stages = status.get("progress") or {}, status.get("stages") or []
    changes: dict[str, Any] = {}
    at_work = any(stage.get("state") == "Running" for stage in stages)
    if progress and (at_work or any(name in progress for name in _OF_WORK)):
        changes["progress"] = {
            "summary": f"stopped at {progress.get('percent', 0.0):.0f}%",
            **{name: None for name in _OF_WORK if name in progress},
        }
    if at_work:
        changes["stages"] = [
            {**stage, "state": ended} if stage.get("state") == "Running" else stage for stage in stages
        ]
    return changes


def _last_words(head: PodView | None, attempt: int) -> ProgressReport | None:
    """The last report of the driver that has succeeded; None when its termination message holds none."""
    driver = head.containers.get(CONTAINER_DRIVER) if head is not None else None
    if driver is None or driver.exit_code != 0:
        return None
    try:
        report = ProgressReport.model_validate_json(driver.message)
    except ValidationError:
        return None
    return report if report.attempt == attempt else None


def _ended(stage: Mapping[str, Any], state: str) -> Mapping[str, Any]:
    return {**stage, "state": state} if stage.get("state") in ("Pending", "Running") else stage


def _instead(before: Any, after: Any) -> Any:
    """A merge patch that leaves nothing of `before` beside `after`."""
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return after
    return dict.fromkeys(before) | {name: _instead(before.get(name), value) for name, value in after.items()}
