"""From the API's dictionaries to the values that policies read. Pure, and cheap: it runs for every pod event.

A pod's view is computed once per version of the pod and remembered by it, because a job of 500 workers is looked
at hundreds of times while its pods start. The one thing in a view that its pod does not tell is since when a container
is kept from starting: that is when it was first seen to be.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from scaling_api import names
from scaling_api.edits import frozen_part
from scaling_api.names import WorkerSlot
from scaling_api.spec import ScalingJobSpec

from .decide.clock import from_rfc3339
from .decide.failure import does_not_answer, obstruction
from .decide.types import ContainerView, PodView
from .runtime.objects import Object

# Why a pod has no node, and what that means where nothing is said of it.
_UNPLACED = {"Unschedulable": "no reason given", "SchedulingGated": "it is held back by its scheduling gates"}
# Of what a scheduler or a kubelet says about a pod; with many nodes it repeats itself.
_MAX_MESSAGE = 400


def observe_pod(pod: Object) -> PodView | None:
    """The view of one of our pods; None for a pod that carries our label but not our names."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    labels = metadata.get("labels") or {}
    try:
        attempt = int(labels[names.LABEL_ATTEMPT])
        role = labels[names.LABEL_ROLE]
        slot = None
        if role == names.ROLE_WORKER:
            slot = WorkerSlot(labels[names.LABEL_GROUP], int(labels[names.LABEL_INDEX]))
        incarnation = int(labels.get(names.LABEL_INCARNATION) or 0)
    except (KeyError, ValueError):
        return None
    conditions = {entry["type"]: entry for entry in status.get("conditions") or ()}
    scheduled, disrupted = conditions.get("PodScheduled", {}), conditions.get("DisruptionTarget", {})
    ready = conditions.get("Ready", {})
    unschedulable = scheduled.get("status") == "False" and scheduled.get("reason") in _UNPLACED
    return PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        attempt=attempt,
        role=role,
        slot=slot,
        incarnation=incarnation,
        phase=status.get("phase") or "Pending",
        ready=ready.get("status") == "True",
        unready_since=_moment(ready.get("lastTransitionTime")) if ready.get("status") == "False" else None,
        terminating="deletionTimestamp" in metadata,
        created_at=from_rfc3339(metadata["creationTimestamp"]),
        scheduled_at=_moment(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None,
        is_set_up=conditions.get("PodReadyToStartContainers", {}).get("status") != "False",
        gone_by=_moment(metadata.get("deletionTimestamp")),
        reason=status.get("reason") or "",
        message=(status.get("message") or "")[:_MAX_MESSAGE],
        disruption=disrupted.get("reason", "") if disrupted.get("status") == "True" else "",
        unschedulable=(scheduled.get("message") or _UNPLACED[scheduled["reason"]])[:_MAX_MESSAGE]
        if unschedulable
        else "",
        containers=_containers(status),
    )


class PodViews:
    """Views of pods by uid and version, so that an unchanged pod is not looked at twice."""

    def __init__(self) -> None:
        self._views: dict[str, tuple[str, PodView | None]] = {}

    def view(self, pod: Object, *, now: float) -> PodView | None:
        """The view of `pod`, computed or remembered; `now` is in seconds since the epoch."""
        metadata = pod["metadata"]
        known = self._views.get(metadata["uid"])
        if known is not None and known[0] == metadata["resourceVersion"]:
            return known[1]
        view = observe_pod(pod)
        if view is not None:
            obstructed, silent = obstruction(view) is not None, does_not_answer(view)
            if obstructed or silent:
                before = known[1] if known is not None else None
                # It may have answered between two looks: then it is not ready since another moment.
                goes_on = before is not None and before.unready_since == view.unready_since
                view = replace(
                    view,
                    obstructed_since=_since(obstructed, before.obstructed_since if before else None, now),
                    silent_since=_since(silent, before.silent_since if before and goes_on else None, now),
                )
        self._views[metadata["uid"]] = (metadata["resourceVersion"], view)
        return view

    def forget(self, pod: Object) -> None:
        """The pod is gone."""
        self._views.pop(pod["metadata"]["uid"], None)


def _since(holds: bool, before: float | None, now: float) -> float | None:
    """Since when something holds that at the last look did so since `before`."""
    return (now if before is None else before) if holds else None


def attempts_of(objects: Iterable[Object]) -> frozenset[int]:
    """The attempts that these Services or NetworkPolicies belong to; those on their way out do not count."""
    found = set()
    for item in objects:
        metadata = item["metadata"]
        label = (metadata.get("labels") or {}).get(names.LABEL_ATTEMPT, "")
        if label.isdigit() and "deletionTimestamp" not in metadata:
            found.add(int(label))
    return frozenset(found)


def spec_digest(spec: ScalingJobSpec) -> str:
    """Digest of what a running job may not change.

    A field that has its default counts as absent: a new version brings fields that the API server then shows in
    every stored job, and none of them is an edit.
    """
    frozen = frozen_part(spec.model_dump(mode="json", by_alias=True, exclude_defaults=True))
    # Empty lists, as every digest that stands in a status has them.
    cluster = {"env": [], "volumes": [], "workers": [], **frozen.pop("cluster", {})}
    canonical = json.dumps({**frozen, "cluster": cluster}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _containers(status: Mapping[str, Any]) -> dict[str, ContainerView]:
    entries = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return {entry["name"]: _container(entry) for entry in entries}


def _container(entry: Mapping[str, Any]) -> ContainerView:
    state = entry.get("state") or {}
    kind: Literal["waiting", "running", "terminated"] = "waiting"
    if "terminated" in state:
        kind = "terminated"
    elif "running" in state:
        kind = "running"
    detail = state.get(kind) or {}
    # Of a container that was restarted, the last end is what tells why.
    last = (entry.get("lastState") or {}).get("terminated") or {}
    restarts = entry.get("restartCount") or 0
    shown = last if kind == "running" and restarts and last else detail
    return ContainerView(
        name=entry["name"],
        state=kind,
        reason=shown.get("reason") or "",
        # Whole, as it may be JSON; kubelets keep 4 KiB of it at most.
        message=shown.get("message") or "",
        exit_code=detail.get("exitCode"),
        restarts=restarts,
        started_at=_moment(detail.get("startedAt")) if kind == "running" else None,
        ran=_run(detail) if kind == "terminated" else None,
        ready=entry.get("ready") is not False,
        is_up=entry.get("started") is not False,
    )


def _run(terminated: Mapping[str, Any]) -> tuple[float, float] | None:
    began, ended = _moment(terminated.get("startedAt")), _moment(terminated.get("finishedAt"))
    return (began, ended) if began is not None and ended is not None else None


def _moment(text: str | None) -> float | None:
    return from_rfc3339(text) if text else None
