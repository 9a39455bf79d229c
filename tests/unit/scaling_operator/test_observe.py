"""From the API's dictionaries to views."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from scaling_api import names
from scaling_api.names import WorkerSlot
from scaling_api.spec import ScalingJobSpec
from scaling_operator.observe import PodViews, attempts_of, observe_pod, spec_digest
from scaling_operator.resources.attempt import render_attempt, worker_pod
from scaling_operator.resources.overrides import merge
from scaling_operator.runtime.objects import Object
from scaling_operator.settings import Settings

from .builders import job

CREATED = "2027-01-15T08:00:00Z"
CREATED_S = 1_800_000_000.0


def _as_stored(rendered: Object, status: Object | None = None, **metadata: Any) -> Object:
    stored = {"uid": "uid-1", "resourceVersion": "7", "creationTimestamp": CREATED} | metadata
    return {**rendered, "metadata": {**rendered["metadata"], **stored}, "spec": {}, "status": status or {}}


def _worker(status: Object | None = None, **metadata: Any) -> Object:
    of = job({"cluster": {"workers": [{"name": "gpu", "max": 12}]}})
    rendered = render_attempt(of, attempt=3, settings=Settings(), ray_token="t", ca_bundle="c")
    template = rendered.worker_templates["gpu"]
    pod = worker_pod(template, job=of.metadata.name, attempt=3, slot=WorkerSlot("gpu", 11), incarnation=2)
    return _as_stored(pod, status, **metadata)


def test_what_is_rendered_is_recognised() -> None:
    view = observe_pod(_worker())
    assert view is not None
    assert (view.attempt, view.role, view.slot, view.incarnation) == (3, "worker", WorkerSlot("gpu", 11), 2)
    assert view.name == names.worker_pod("mnist", 3, WorkerSlot("gpu", 11), 2)
    assert (view.phase, view.ready, view.terminating, view.created_at) == ("Pending", False, False, CREATED_S)


def _head(status: Object | None = None, **metadata: Any) -> Object:
    rendered = render_attempt(job(), attempt=3, settings=Settings(), ray_token="t", ca_bundle="c")
    return _as_stored(rendered.head, status, **metadata)


def test_so_is_a_head() -> None:
    view = observe_pod(_head())
    assert view is not None
    assert (view.is_head, view.slot, view.attempt) == (True, None, 3)


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param({}, id="none"),
        pytest.param({names.LABEL_ATTEMPT: "x", names.LABEL_ROLE: "head"}, id="an attempt that is no number"),
        pytest.param({names.LABEL_ATTEMPT: "1", names.LABEL_ROLE: "worker"}, id="a worker without a slot"),
    ],
)
def test_pods_that_only_look_like_ours_are_left_alone(labels: dict[str, str]) -> None:
    metadata = {"name": "x", "uid": "u", "creationTimestamp": CREATED, "labels": labels}
    assert observe_pod({"metadata": metadata, "spec": {}, "status": {}}) is None


@pytest.mark.parametrize(
    ("status", "metadata", "expected"),
    [
        pytest.param(
            {"conditions": [{"type": "Ready", "status": "True"}], "phase": "Running"},
            {},
            {"ready": True, "unready_since": None, "phase": "Running"},
            id="ready",
        ),
        pytest.param(
            {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": CREATED}], "phase": "Running"},
            {},
            {"ready": False, "unready_since": CREATED_S},
            id="ready no more",
        ),
        pytest.param(
            {},
            {"deletionTimestamp": "2027-01-15T08:00:30Z"},
            {"terminating": True, "gone_by": CREATED_S + 30},
            id="being deleted",
        ),
        pytest.param(
            {"conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": CREATED}]},
            {},
            {"scheduled_at": CREATED_S, "unschedulable": ""},
            id="has a node",
        ),
        pytest.param(
            {
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/1 nodes",
                        "lastTransitionTime": CREATED,
                    }
                ]
            },
            {},
            {"scheduled_at": None, "unschedulable": "0/1 nodes"},
            id="no node fits",
        ),
        pytest.param(
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]},
            {},
            {"scheduled_at": None, "unschedulable": "it is held back by its scheduling gates"},
            id="held back by a gate",
        ),
        pytest.param(
            {"conditions": [{"type": "PodReadyToStartContainers", "status": "False"}]},
            {},
            {"is_set_up": False},
            id="volumes are being mounted",
        ),
        pytest.param(
            {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]},
            {},
            {"disruption": "PreemptionByScheduler"},
            id="preempted",
        ),
        pytest.param(
            {"phase": "Failed", "reason": "Evicted", "message": "low on memory"},
            {},
            {"reason": "Evicted", "message": "low on memory", "is_over": True},
            id="evicted",
        ),
    ],
)
def test_facts_of_the_pod(status: Object, metadata: dict[str, Any], expected: dict[str, Any]) -> None:
    view = observe_pod(_worker(status, **metadata))
    assert {name: getattr(view, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        pytest.param(
            {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}, "restartCount": 0},
            {"state": "waiting", "reason": "ErrImagePull", "message": "no such image", "exit_code": None},
            id="waiting",
        ),
        pytest.param(
            {"state": {"running": {"startedAt": CREATED}}, "restartCount": 0},
            {"state": "running", "started_at": CREATED_S, "restarts": 0, "is_up": True},
            id="running",
        ),
        pytest.param(
            {"state": {"running": {"startedAt": CREATED}}, "started": False},
            {"state": "running", "started_at": CREATED_S, "is_up": False},
            id="running, but its startup probe has had no answer yet",
        ),
        pytest.param(
            {"state": {"running": {"startedAt": CREATED}}, "ready": False},
            {"state": "running", "ready": False},
            id="running, but a probe fails",
        ),
        pytest.param(
            {
                "state": {"running": {"startedAt": CREATED}},
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                "restartCount": 1,
            },
            {"state": "running", "reason": "OOMKilled", "restarts": 1, "exit_code": None},
            id="running again: why it ended before is what matters",
        ),
        pytest.param(
            {"state": {"terminated": {"exitCode": 78, "reason": "Error", "message": "{}"}}, "restartCount": 0},
            {"state": "terminated", "exit_code": 78, "message": "{}", "ran": None},
            id="ended",
        ),
        pytest.param(
            {"state": {"terminated": {"exitCode": 137, "startedAt": CREATED, "finishedAt": "2027-01-15T08:00:09Z"}}},
            {"state": "terminated", "ran": (CREATED_S, CREATED_S + 9)},
            id="ended, and it is known when it ran",
        ),
        pytest.param({}, {"state": "waiting", "reason": ""}, id="nothing known"),
    ],
)
def test_facts_of_containers(entry: Object, expected: dict[str, Any]) -> None:
    view = observe_pod(_worker({"containerStatuses": [{"name": "ray", **entry}]}))
    assert view is not None
    assert {name: getattr(view.containers["ray"], name) for name in expected} == expected


def test_sidecars_are_seen_too() -> None:
    view = observe_pod(_worker({"initContainerStatuses": [{"name": "side"}], "containerStatuses": [{"name": "ray"}]}))
    assert view is not None
    assert sorted(view.containers) == ["ray", "side"]


def test_a_view_is_computed_once_per_version() -> None:
    views = PodViews()
    first = views.view(_worker(), now=CREATED_S)
    assert views.view(_worker(), now=CREATED_S + 1) is first
    changed = views.view(_worker({"phase": "Running"}, resourceVersion="8"), now=CREATED_S + 2)
    assert changed is not None
    assert changed.phase == "Running"


def test_what_keeps_a_container_from_starting_counts_from_when_it_was_first_seen() -> None:
    views = PodViews()
    seen: list[float | None] = []
    reasons = ("ContainerCreating", "ErrImagePull", "ImagePullBackOff", "ContainerCreating", "CreateContainerError")
    for second, reason in enumerate(reasons):
        status = {"containerStatuses": [{"name": "ray", "state": {"waiting": {"reason": reason}}}]}
        view = views.view(_worker(status, resourceVersion=str(second)), now=CREATED_S + second)
        assert view is not None
        seen.append(view.obstructed_since)
    assert seen == [None, CREATED_S + 1, CREATED_S + 1, None, CREATED_S + 4]


def test_a_driver_is_silent_from_when_its_kubelet_was_first_seen_to_say_so() -> None:
    views = PodViews()

    def seen(now: float, version: str, unready: str = CREATED, **driver: Any) -> float | None:
        entry = {"name": "driver", "state": {"running": {"startedAt": CREATED}}, "started": True} | driver
        ready = {"type": "Ready", "status": "False", "lastTransitionTime": unready}
        status = {"phase": "Running", "containerStatuses": [entry], "conditions": [ready]}
        view = views.view(_head(status, resourceVersion=version), now=now)
        assert view is not None
        return view.silent_since

    assert seen(1.0, "1", started=False, ready=False) is None, "it starts"
    assert seen(2.0, "2", ready=True) is None
    assert seen(30.0, "3", ready=False) == 30.0
    assert seen(40.0, "4", ready=False) == 30.0
    assert seen(50.0, "5", ready=True) is None
    assert seen(60.0, "6", ready=False) == 60.0
    later = CREATED.replace("Z", "+00:00")
    later = (datetime.fromisoformat(later) + timedelta(seconds=20)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert seen(84.0, "9", unready=later, ready=False) == 84.0, "it answered between two looks"


def test_attempts_of_what_is_not_being_deleted() -> None:
    def service(attempt: str, **metadata: Any) -> Object:
        return {"metadata": {"labels": {names.LABEL_ATTEMPT: attempt}, **metadata}}

    found = attempts_of([service("1", deletionTimestamp=CREATED), service("2"), service("x"), {"metadata": {}}])
    assert found == {2}


_GROUPS = [{"name": "cpu", "min": 1, "max": 2}, {"name": "gpu", "max": 1}]


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        pytest.param({"runPolicy": {"backoffLimit": 5, "suspend": True}}, True, id="runPolicy is free"),
        pytest.param(
            {"cluster": {"workers": [{"name": "cpu", "min": 0, "max": 9}, {"name": "gpu", "max": 3}]}},
            True,
            id="so are min and max",
        ),
        pytest.param(
            {"cluster": {"workers": [{"name": "gpu", "max": 1}, {"max": 2, "min": 1, "name": "cpu"}]}},
            True,
            id="order is nothing",
        ),
        pytest.param(
            {
                "cluster": {"workers": [{"name": "cpu", "slots": 1, "max": 2}, {"name": "gpu", "max": 1}]},
                "training": {"parallelism": {"tensor": 1}},
            },
            True,
            id="nor are defaults, which a new version of the CRD writes into every job",
        ),
        pytest.param(
            {"cluster": {"workers": [{"name": "cpu", "max": 2, "slots": 2}, {"name": "gpu", "max": 1}]}},
            False,
            id="slots are not",
        ),
        pytest.param({"model": {"name": "resnet18"}}, False, id="nor is the model"),
    ],
)
def test_digest_of_what_needs_a_new_attempt(changed: Object, same: bool) -> None:
    before = job({"cluster": {"workers": _GROUPS}}).spec
    after = job(merge({"cluster": {"workers": _GROUPS}}, changed)).spec
    assert (spec_digest(after) == spec_digest(before)) is same
    assert spec_digest(ScalingJobSpec.model_validate(after.to_json_dict())) == spec_digest(after)
