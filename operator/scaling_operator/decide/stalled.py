"""Does the driver say that nothing advances?

The driver measures that itself, and its last report stays true however long the operator or the API server is away: so
nothing is concluded from the age of a report. What waits for workers is not stalled; ClusterReady tells that. It is a
condition to look at, and never ends anything: only the user can know how long a step of theirs may take.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaling_api.reasons import ConditionType, Reason

from .conditions import Verdict, Verdicts
from .types import Event, Memory


def stalled(status: Mapping[str, Any], memory: Memory, attempt: int, *, ready: bool) -> Verdicts:
    """The condition, from what the driver of `attempt` reported; nothing as long as it was never True.

    `ready` says whether the cluster has what the attempt needs.
    """
    progress = status.get("progress") or {}
    since = progress.get("stalledSince") if status.get("reportedAttempt") == attempt and ready else None
    if since is None:
        known = ConditionType.STALLED in memory.conditions
        return {ConditionType.STALLED: Verdict(False, Reason.ADVANCING, "The job advances.")} if known else {}
    return {ConditionType.STALLED: Verdict(True, Reason.NOT_ADVANCING, _sentence(status, progress, since))}


def event(before: Memory, verdicts: Verdicts) -> list[Event]:
    """What to tell when it has just become True."""
    verdict = verdicts.get(ConditionType.STALLED)
    if verdict is None or not verdict.holds or before.holds(ConditionType.STALLED):
        return []
    return [Event("Warning", verdict.reason, verdict.message)]


def _sentence(status: Mapping[str, Any], progress: Mapping[str, Any], since: str) -> str:
    name, step = progress.get("stage", ""), progress.get("step")
    stage: Mapping[str, Any] = next((one for one in status.get("stages") or () if one.get("name") == name), {})
    where = f"stage {name}" + (f", step {step}" if step is not None else "")
    said = f": {stage['message']}" if stage.get("message") else ""
    return (
        f"Nothing has advanced since {since} ({where}){said}. The driver runs and answers: look at its log, at storage "
        "and at where the data come from; suspend and resume starts it anew from the last checkpoint."
    )
