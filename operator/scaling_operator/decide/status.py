"""The leader's part of the status: reading it back, writing it out, and telling what in it is urgent.

`remember` and `render` are inverse for everything in Memory, so an operator that restarts goes on from exactly
what stands in the status.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scaling_api.reasons import ConditionType, Failure
from scaling_api.status import MAX_ATTEMPTS_KEPT

from .clock import from_rfc3339, to_rfc3339
from .pod_sets import PodSet, workers_among
from .types import AttemptRecord, Condition, Memory, PodView

# The fields that the leader owns; all others are the progress writer's.
FIELDS = (
    "phase",
    "observedGeneration",
    "conditions",
    "attempt",
    "attempts",
    "failures",
    "incarnations",
    "workerGroups",
    "workers",
    "startedAt",
    "finishedAt",
    "activeSince",
    "activeSeconds",
)
# Fields of a driver that is gone, which the leader puts right (left_over.py). They are changes already.
_LEFT_OVER = ("progress", "stages", "objective", "accuracy", "result", "reportedAttempt")
MAX_MESSAGE = 1024


def remember(status: Mapping[str, Any]) -> Memory:
    """What the leader persisted in `status`."""
    return Memory(
        attempts=tuple(_attempt(entry) for entry in status.get("attempts") or ()),
        failures=status.get("failures") or 0,
        incarnations=dict(status.get("incarnations") or {}),
        replaced={group["name"]: group.get("replaced") or 0 for group in status.get("workerGroups") or ()},
        conditions={
            entry["type"]: Condition(
                entry["status"],
                entry["reason"],
                entry.get("message", ""),
                entry["lastTransitionTime"],
                entry.get("observedGeneration", 0),
            )
            for entry in status.get("conditions") or ()
        },
        started_at=_moment(status.get("startedAt")),
        finished_at=_moment(status.get("finishedAt")),
        active_since=_moment(status.get("activeSince")),
        active_seconds=status.get("activeSeconds") or 0.0,
    )


def render(
    memory: Memory, *, phase: str, generation: int, groups: Sequence[Mapping[str, Any]] | None, workers: str | None
) -> dict[str, Any]:
    """The leader's fields for `memory`. Fields that are absent are None: a merge patch removes them so.

    `generation` is that of the observed spec, which the conditions that were judged now speak of.
    """
    conditions = [
        {
            "type": str(kind),
            "status": condition.status,
            "reason": str(condition.reason),
            "message": condition.message[:MAX_MESSAGE],
            "lastTransitionTime": condition.since,
            "observedGeneration": condition.generation if condition.generation is not None else generation,
        }
        for kind, condition in memory.conditions.items()
    ]
    return {
        "phase": phase,
        "observedGeneration": generation,
        "conditions": conditions,
        "attempt": memory.last.number if memory.last else None,
        "attempts": [_entry(record) for record in memory.attempts[-MAX_ATTEMPTS_KEPT:]],
        "failures": memory.failures,
        "incarnations": dict(memory.incarnations) or None,
        "workerGroups": list(groups) if groups is not None else None,
        "workers": workers,
        "startedAt": _text(memory.started_at),
        "finishedAt": _text(memory.finished_at),
        "activeSince": _text(memory.active_since),
        "activeSeconds": round(memory.active_seconds, 3),
    }


def summarise(
    sets: Sequence[PodSet], alive: Mapping[str, Sequence[PodView]], replaced: Mapping[str, int]
) -> tuple[list[dict[str, Any]], str]:
    """status.workerGroups, and "ready/desired" for the table; `replaced` is that of Memory."""
    groups = workers_among(sets)
    entries = [
        {
            "name": group.name,
            "desired": group.count,
            "running": len(alive.get(group.name, ())),
            "ready": sum(pod.ready for pod in alive.get(group.name, ())),
            "replaced": replaced.get(group.name, 0),
        }
        for group in groups
    ]
    ready = sum(pod.ready for group in groups for pod in alive.get(group.name, ()))
    return entries, f"{ready}/{sum(group.count for group in groups)}"


def is_urgent(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the change from `old` to `new` shows more than counters moving."""
    return _essence(old) != _essence(new)


def patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A merge patch that turns the leader's fields of `old` into `new`; empty when they are equal."""
    changes: dict[str, Any] = {}
    for name in FIELDS:
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if name == "incarnations" and before and after:
            after = {**dict.fromkeys(before), **after}
        changes[name] = after
    return changes | {name: new[name] for name in _LEFT_OVER if name in new}


def without_left_over(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Of a merge patch what the leader itself has to say."""
    return {name: value for name, value in changes.items() if name not in _LEFT_OVER}


def _essence(status: Mapping[str, Any]) -> tuple[Any, ...]:
    conditions = {
        # That the driver runs is no news by itself: phase and ClusterReady follow from it.
        (entry["type"], entry["status"], entry["reason"] if entry["reason"] in _FAILURES else "")
        for entry in status.get("conditions") or ()
        if entry["type"] != ConditionType.RUNNING
    }
    attempts = [(entry["number"], entry.get("outcome")) for entry in status.get("attempts") or ()]
    simple = ("phase", "observedGeneration", "attempt", "incarnations", "finishedAt", "activeSince")
    return (frozenset(conditions), attempts, *(status.get(name) or None for name in simple))


_FAILURES = frozenset(str(failure) for failure in Failure)


def _attempt(entry: Mapping[str, Any]) -> AttemptRecord:
    return AttemptRecord(
        number=entry["number"],
        started_at=from_rfc3339(entry["startedAt"]),
        ended_at=_moment(entry.get("endedAt")),
        outcome=entry.get("outcome"),
        reason=entry.get("reason"),
        message=entry.get("message"),
        digest=entry.get("digest"),
    )


def _entry(record: AttemptRecord) -> dict[str, Any]:
    entry = {
        "number": record.number,
        "startedAt": to_rfc3339(record.started_at),
        "endedAt": _text(record.ended_at),
        "outcome": record.outcome,
        "reason": record.reason,
        "message": record.message[:MAX_MESSAGE] if record.message else None,
        "digest": record.digest,
    }
    return {key: value for key, value in entry.items() if value is not None}


def _moment(text: str | None) -> float | None:
    return from_rfc3339(text) if text else None


def _text(moment: float | None) -> str | None:
    return to_rfc3339(moment) if moment is not None else None
