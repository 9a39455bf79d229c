"""The resource on a real API server: what is stored, what kubectl shows, and a status with two writers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scaling_api.status import (
    PROGRESS_MANAGER,
    Artifact,
    Attempt,
    Condition,
    Objective,
    Progress,
    ProgressStatus,
    Result,
    ScalingJobStatus,
    StageStatus,
    WorkerGroupStatus,
)
from tests.cases.case import minimal
from tests.cluster.crd import KIND, install_crd
from tests.cluster.kube.client import ApiError, Client, wait_until

_NAME = "resource"
_NOW = "2026-01-02T03:04:05Z"

_LEADERS_PART = ScalingJobStatus(
    phase="Running",
    observed_generation=1,
    conditions=[Condition(type="Running", status="True", reason="DriverRunning", last_transition_time=_NOW)],
    attempt=2,
    attempts=[Attempt(number=1, started_at=_NOW, ended_at=_NOW, outcome="Failed", reason="NodeLost", message="gone")],
    failures=1,
    incarnations={"workers-1": 2},
    worker_groups=[WorkerGroupStatus(name="workers", desired=2, running=2, ready=1)],
    workers="1/2",
    started_at=_NOW,
    active_since=_NOW,
)
_DRIVERS_PART = ProgressStatus(
    progress=Progress(stage="train", percent=42.5, metrics={"accuracy": 0.9}, summary="42% (3m left)", updated_at=_NOW),
    stages=[StageStatus(name="train", state="Running", started_at=_NOW), StageStatus(name="report", state="Pending")],
    objective=Objective(metric="accuracy", mode="max", split="validation", value=0.9, summary="accuracy 0.9000"),
    accuracy="0.9000",
    result=Result(metrics={"f1": 1.0}, artifacts=[Artifact(name="model", uri="model.safetensors", size_bytes=7)]),
    reported_attempt=2,
)


@pytest.fixture
def job(client: Client) -> Iterator[Client]:
    """A server with a job; suspended, so that an operator that may be there leaves it alone."""
    install_crd(client)
    manifest = minimal()
    manifest["metadata"]["name"] = _NAME
    manifest["spec"]["runPolicy"] = {"suspend": True}
    client.create(manifest, "default")
    yield client
    client.delete(KIND, _NAME, "default")


def _write_leaders_part(job: Client, **changes: Any) -> None:
    part = _LEADERS_PART.model_copy(update=changes).to_json_dict()
    part.pop("stages")
    job.patch(KIND, _NAME, {"status": part}, "default", subresource="status")


def _write_drivers_part(job: Client) -> None:
    job.request(
        "PATCH",
        job.path(KIND, "default", _NAME, "status"),
        body={
            "apiVersion": "scaling.dev/v1alpha1",
            "kind": "ScalingJob",
            "metadata": {"name": _NAME},
            "status": _DRIVERS_PART.to_json_dict(),
        },
        content_type="application/apply-patch+yaml",
        parameters={"fieldManager": PROGRESS_MANAGER, "force": "true"},
    )


def test_the_stored_object_says_what_will_run(job: Client) -> None:
    spec = job.get(KIND, _NAME, "default")["spec"]
    assert spec["training"] == {
        "epochs": 2,
        "batchSize": 128,
        "seed": 0,
        "accumulation": 1,
        "precision": "fp32",
        "labelSmoothing": 0,
        "deterministic": False,
        "activationCheckpointing": False,
        "compile": False,
        "optimizer": {"name": "adam", "learningRate": 0.001, "weightDecay": 0},
        "schedule": {"name": "constant", "warmupFraction": 0},
        "parallelism": {"auto": False, "batchNorm": "local", "fsdp": 1, "pipeline": 1, "tensor": 1},
        "update": {"mode": "sync"},
        "elastic": {"batch": "constant", "rateRule": "linear", "warmupEpochs": 1},
        "checkpoint": {"everyEpochs": 1, "keep": 2},
    }
    assert spec["runPolicy"] == {"suspend": True, "backoffLimit": 3, "cleanPodPolicy": "All"}
    (group,) = spec["cluster"]["workers"]
    assert (group["name"], group["min"], group["max"], group["slots"]) == ("workers", 2, 2, 1)


def test_two_writers_share_the_status(job: Client) -> None:
    _write_leaders_part(job)
    _write_drivers_part(job)
    _write_leaders_part(job, workers="2/2")
    status = ScalingJobStatus.model_validate(job.get(KIND, _NAME, "default")["status"])
    merged = _LEADERS_PART.model_copy(update={**dict(_DRIVERS_PART), "workers": "2/2"})
    assert status == merged


def test_a_status_that_the_models_refuse_is_refused(job: Client) -> None:
    with pytest.raises(ApiError, match=r"status\.phase: Unsupported value"):
        job.patch(KIND, _NAME, {"status": {"phase": "Working"}}, "default", subresource="status")


def test_what_kubectl_get_shows(job: Client, kubectl: Callable[..., str]) -> None:
    _write_leaders_part(job)
    _write_drivers_part(job)
    wait_until(lambda: "scalingjobs" in kubectl("api-resources", "--api-group=scaling.dev", check=False))
    header, row = kubectl("get", "sj", _NAME, "-n", "default").splitlines()
    assert header.split() == ["NAME", "STATUS", "STAGE", "PROGRESS", "WORKERS", "SCORE", "AGE"]
    shown = [_NAME, "Running", "train", "42%", "(3m", "left)", "1/2", "accuracy", "0.9000"]
    assert row.split()[:9] == shown


def test_kubectl_explains_a_field(job: Client, kubectl: Callable[..., str]) -> None:
    sentence = "Samples per optimizer step over all workers together."
    # The schema of a kind is published some time after the kind.
    wait_until(lambda: sentence in kubectl("explain", "sj.spec.training.batchSize", check=False))
