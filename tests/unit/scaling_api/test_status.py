from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from scaling_api.driver import ProgressReport
from scaling_api.reasons import ConditionType, Failure
from scaling_api.status import (
    MAX_ATTEMPTS_KEPT,
    Artifact,
    Attempt,
    Condition,
    Progress,
    ProgressStatus,
    Result,
    ScalingJobStatus,
    StageStatus,
)

_NOW = "2026-01-02T03:04:05Z"


def _full() -> ScalingJobStatus:
    return ScalingJobStatus(
        phase="Running",
        observed_generation=2,
        conditions=[
            Condition(
                type=ConditionType.RUNNING, status="False", reason=Failure.OUT_OF_MEMORY, last_transition_time=_NOW
            )
        ],
        attempt=2,
        attempts=[Attempt(number=1, started_at=_NOW, ended_at=_NOW, outcome="Failed", reason=Failure.NODE_LOST)],
        incarnations={"gpu-1": 3},
        progress=Progress(stage="train", percent=42, metrics={"accuracy": 0.9}, updated_at=_NOW),
        stages=[StageStatus(name="train", state="Running")],
        result=Result(metrics={"f1": 1.0}, artifacts=[Artifact(name="model", uri="model.safetensors")]),
    )


def test_the_wire_form_is_camel_case_without_nulls() -> None:
    wire = _full().to_json_dict()
    assert wire["conditions"][0] == {
        "type": "Running",
        "status": "False",
        "reason": "OutOfMemory",
        "message": "",
        "lastTransitionTime": _NOW,
        "observedGeneration": 0,
    }
    assert wire["progress"]["updatedAt"] == _NOW
    assert "finishedAt" not in wire
    assert "etaSeconds" not in wire["progress"]


def test_what_is_written_can_be_read() -> None:
    assert ScalingJobStatus.model_validate(_full().to_json_dict()) == _full()


@pytest.mark.parametrize("time", [_NOW, "2026-01-02T03:04:05.123456Z", "2026-01-02T03:04:05.5+02:00"])
def test_times_are_those_of_rfc_3339(time: str) -> None:
    progress = Progress(stage="train", step=2**63 - 1, updated_at=time)
    assert progress.updated_at == time


def test_an_empty_status_can_be_read() -> None:
    assert ScalingJobStatus.model_validate({}).failures == 0


def test_the_drivers_part_is_a_part_of_the_status() -> None:
    assert ProgressStatus.model_fields.keys() < ScalingJobStatus.model_fields.keys()
    assert ProgressReport.model_fields.keys() - ProgressStatus.model_fields.keys() == {"attempt"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("phase", "Working"),
        ("attempt", 0),
        ("conditions", [{"type": "Running", "status": "true", "reason": "X", "lastTransitionTime": _NOW}]),
        ("stages", [{"name": "train", "state": "Running"}, {"name": "train", "state": "Pending"}]),
        ("progress", {"stage": "train", "percent": 101, "updatedAt": _NOW}),
        ("progress", {"stage": "train", "updatedAt": "yesterday"}),
        ("progress", {"stage": "train", "updatedAt": "2026-02-30T03:04:05Z"}),
        ("progress", {"stage": "train", "updatedAt": "2026-01-02T03:04:05"}),
        ("progress", {"stage": "train", "updatedAt": "2026-01-02"}),
        ("progress", {"stage": "train", "step": 2**63, "updatedAt": _NOW}),
        ("incarnations", {"gpu-1": 2**63}),
        ("result", {"metrics": {f"m{number}": 1.0 for number in range(65)}}),
        ("attempts", [{"number": number, "startedAt": _NOW} for number in range(1, MAX_ATTEMPTS_KEPT + 2)]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_status_cannot_say(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        ScalingJobStatus.model_validate({field: value})
