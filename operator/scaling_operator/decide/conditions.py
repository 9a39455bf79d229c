"""The conditions of a job, from facts. Whether they hold is decided elsewhere; here it is put into words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scaling_api.driver import CONTAINER_DRIVER
from scaling_api.reasons import ConditionType, Failure, Reason

from .clock import to_rfc3339
from .failure import why_waiting
from .pod_sets import HEAD_SET, PodSet, workers_among
from .types import Condition, PodView, Trouble


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a condition says now; the time of its last change is added by `merged`."""

    holds: bool
    reason: str
    message: str


Verdicts = Mapping[ConditionType, Verdict]

_OF_THE_SPEC = (ConditionType.ACCEPTED, ConditionType.UP_TO_DATE)


def merged(old: Mapping[str, Condition], verdicts: Verdicts, *, now: float) -> dict[str, Condition]:
    """`old` with `verdicts` laid over it; a condition whose status stays keeps its time."""
    result = dict(old)
    for kind, verdict in verdicts.items():
        status = "True" if verdict.holds else "False"
        before = old.get(kind)
        since = before.since if before is not None and before.status == status else to_rfc3339(now)
        result[kind] = Condition("True" if verdict.holds else "False", verdict.reason, verdict.message, since)
    return result


def lasting(old: Mapping[str, Condition]) -> dict[str, Condition]:
    """The conditions of a job that has ended: what became of it is true whatever its spec says now."""
    return {kind: found if kind in _OF_THE_SPEC else replace(found, generation=None) for kind, found in old.items()}


def accepted(invalid: str | None) -> Verdict:
    """Can the spec be run?"""
    if invalid is not None:
        return Verdict(False, Failure.INVALID_SPEC, invalid)
    return Verdict(True, Reason.VALID, "The spec can be run.")


def up_to_date(is_current: bool) -> Verdict:
    """Does the running attempt have the current spec?"""
    if is_current:
        return Verdict(True, Reason.CURRENT, "The attempt runs the current spec.")
    return Verdict(
        False,
        Reason.EDIT_PENDING,
        "An edit takes effect with the next attempt; set runPolicy.suspend to true and back to false to have it now.",
    )


def cluster_ready(
    sets: Sequence[PodSet],
    head: PodView | None,
    alive: Mapping[str, Sequence[PodView]],
    lost: Mapping[str, Trouble],
    refusal: str | None,
    *,
    now: float,
) -> Verdict:
    """Are head and at least `min` workers of each group up?

    `lost` says by group why a worker ended whose successor is still held back.
    What the API server refuses is why not, as long as a pod is missing that the cluster needs; else it is a remark.
    """
    verdict = _cluster_ready(workers_among(sets), head, alive, lost, now=now)
    if refusal is None:
        return verdict
    there = {**alive, HEAD_SET: (head,) if head is not None else ()}
    if any(len(there.get(one.name, ())) < one.minimum for one in sets):
        return Verdict(False, Failure.REFUSED_BY_API, refusal)
    return replace(verdict, message=f"{verdict.message} {refusal}")


def _cluster_ready(
    groups: Sequence[PodSet],
    head: PodView | None,
    alive: Mapping[str, Sequence[PodView]],
    lost: Mapping[str, Trouble],
    *,
    now: float,
) -> Verdict:
    if head is None or head.phase != "Running":
        trouble = why_waiting(head, now=now) if head is not None else None
        if trouble is not None:
            return Verdict(False, trouble.reason, trouble.message)
        return Verdict(False, Reason.WAITING_FOR_HEAD, "The head pod is starting.")
    missing: list[str] = []
    for group in groups:
        pods = alive.get(group.name, ())
        ready = sum(pod.ready for pod in pods)
        if ready >= group.minimum:
            continue
        waiting = (why_waiting(pod, now=now) for pod in pods if not pod.ready)
        trouble = next((trouble for trouble in waiting if trouble is not None), lost.get(group.name))
        if trouble is not None:
            return Verdict(False, trouble.reason, trouble.message)
        missing.append(f"{ready} of {group.minimum} workers of group {group.name} are ready")
    if missing:
        return Verdict(False, Reason.WAITING_FOR_WORKERS, "; ".join(missing) + ".")
    count = sum(pod.ready for pods in alive.values() for pod in pods)
    return Verdict(True, Reason.CLUSTER_READY, f"The head and {count} workers are up.")


def running(head: PodView | None) -> Verdict:
    """Does the driver run?"""
    driver = head.containers.get(CONTAINER_DRIVER) if head is not None else None
    if driver is not None and driver.state == "running":
        return Verdict(True, Reason.DRIVER_RUNNING, "The driver runs.")
    return Verdict(False, Reason.DRIVER_STARTING, "The driver has not started yet.")


def ended(reason: str = Reason.ENDED, message: str = "There is no attempt at work.") -> dict[ConditionType, Verdict]:
    """What an attempt's end means for the conditions that speak of one."""
    verdict = Verdict(False, reason, message)
    return {ConditionType.CLUSTER_READY: verdict, ConditionType.RUNNING: verdict}
