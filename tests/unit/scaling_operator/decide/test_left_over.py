"""What is put right of a report whose driver is gone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scaling_api.driver import CONTAINER_DRIVER, ProgressReport
from scaling_api.names import head_pod
from scaling_api.status import ScalingJobStatus
from scaling_operator.decide import decide
from scaling_operator.decide.attempts import fail, succeed, suspend
from scaling_operator.decide.failure import deleted
from scaling_operator.decide.left_over import settled
from scaling_operator.decide.status import patch
from scaling_operator.decide.types import Memory, PodView
from tests.unit.scaling_operator.simulation.server import merge_patch

from .builders import NAME, NOW, at_work, ended, head, job, observed, persisted

REPORT: dict[str, Any] = {
    "progress": {"stage": "train", "percent": 42.3, "etaSeconds": 170, "summary": "42% (3m left)", "step": 21},
    "stages": [{"name": "analyze", "state": "Succeeded"}, {"name": "train", "state": "Running", "startedAt": "x"}],
}
LOST = fail(at_work(), deleted("mnist-1-head"), backoff_limit=3, final=False, now=NOW)
FAILED = fail(at_work(), deleted("mnist-1-head"), backoff_limit=0, final=False, now=NOW)


@pytest.mark.parametrize(
    ("memory", "train"),
    [
        pytest.param(LOST, "Pending", id="the next attempt goes on with it"),
        pytest.param(FAILED, "Failed", id="nobody goes on with it"),
        pytest.param(suspend(at_work(), now=NOW), "Pending", id="it is suspended"),
    ],
)
def test_a_driver_that_was_killed_left_a_stage_at_work(memory: Memory, train: str) -> None:
    changed = merge_patch(REPORT, settled(REPORT, memory, observed(), NAME))
    assert changed["progress"] == {"stage": "train", "percent": 42.3, "summary": "stopped at 42%", "step": 21}
    assert changed["stages"] == [
        {"name": "analyze", "state": "Succeeded"},
        {"name": "train", "state": train, "startedAt": "x"},
    ]
    assert settled(changed, memory, observed(), NAME) == {}


@pytest.mark.parametrize(
    ("status", "memory"),
    [
        pytest.param(REPORT, at_work(), id="it is at work"),
        pytest.param(REPORT, Memory(), id="there was no attempt"),
        pytest.param({}, LOST, id="it never reported"),
        pytest.param({"progress": {"summary": "stopped at 42%"}, "stages": []}, LOST, id="it said so itself"),
    ],
)
def test_nothing_is_changed(status: dict[str, Any], memory: Memory) -> None:
    assert settled(status, memory, observed(), NAME) == {}


def test_it_is_written_with_the_end_of_the_attempt() -> None:
    status = {**persisted(at_work()), **REPORT}
    decision = decide(job(), observed([head(phase="Failed")]), status, now=NOW)
    assert decision.status is not None
    assert decision.urgent
    assert patch(status, decision.status)["progress"]["summary"] == "stopped at 42%"


SUCCEEDED = succeed(at_work(), now=NOW)
LAST: dict[str, Any] = {
    "attempt": 1,
    "progress": {"stage": "report", "percent": 100.0, "summary": "done", "updatedAt": "2026-01-01T00:00:00Z"},
    "stages": [
        {"name": "analyze", "state": "Succeeded"},
        {"name": "train", "state": "Succeeded", "startedAt": "2026-01-01T00:00:00Z"},
    ],
    "objective": {
        "metric": "accuracy",
        "mode": "max",
        "split": "test",
        "value": 0.9712,
        "summary": "accuracy 0.9712",
    },
    "accuracy": "0.9712",
    "result": {"metrics": {"accuracy": 0.9712}, "artifacts": [{"name": "model", "uri": "s3://runs/model"}]},
}


def a_head_that_said(message: str, *, code: int = 0) -> PodView:
    return head(driver=ended(CONTAINER_DRIVER, code, message=message))


def the_last_report(**changes: Any) -> str:
    return ProgressReport.model_validate({**LAST, **changes}).model_dump_json(by_alias=True, exclude_none=True)


def test_a_result_that_nobody_received_is_filled_in_from_the_drivers_last_words() -> None:
    status = {**persisted(at_work()), **REPORT, "reportedAttempt": 1}
    decision = decide(job(), observed([a_head_that_said(the_last_report())]), status, now=NOW)
    assert decision.status is not None
    assert decision.urgent
    shown = merge_patch(status, patch(status, decision.status))
    expected = {name: value for name, value in LAST.items() if name != "attempt"}
    assert {name: shown[name] for name in expected} == expected, "nothing of the report before is left"
    assert shown["reportedAttempt"] == 1
    assert shown["phase"] == "Succeeded"
    ScalingJobStatus.model_validate({name: value for name, value in shown.items() if value is not None})


def test_it_is_filled_in_once() -> None:
    seen = observed([a_head_that_said(the_last_report())])
    changed = merge_patch(REPORT, settled(REPORT, SUCCEEDED, seen, NAME))
    assert settled(changed, SUCCEEDED, seen, NAME) == {}
    assert settled(changed, SUCCEEDED, observed(), NAME) == {}, "with the pod gone"


def test_a_head_that_is_gone_counts_as_it_was_last_seen() -> None:
    seen = observed(vanished={head_pod(NAME, 1): a_head_that_said(the_last_report())})
    assert merge_patch(REPORT, settled(REPORT, SUCCEEDED, seen, NAME))["result"] == LAST["result"]


def test_a_last_report_that_arrived_is_left_alone() -> None:
    arrived = {**LAST, "reportedAttempt": 1}
    later = the_last_report(progress={**LAST["progress"], "updatedAt": "2026-01-01T00:00:01Z"})
    assert settled(arrived, SUCCEEDED, observed([a_head_that_said(later)]), NAME) == {}


def in_words(progress: dict[str, Any]) -> str:
    return json.dumps({**LAST, "progress": {**LAST["progress"], **progress}})


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param([a_head_that_said("")], id="it said nothing"),
        pytest.param([a_head_that_said('{"attempt": 1, "result": ')], id="its message was cut"),
        pytest.param([a_head_that_said(in_words({"updatedAt": "yesterday"}))], id="it names no time"),
        pytest.param([a_head_that_said(in_words({"step": 2**63}))], id="its numbers are too large to be stored"),
        pytest.param([a_head_that_said("[" * 2000)], id="it is nested without end"),
        pytest.param([a_head_that_said(the_last_report(attempt=2))], id="it speaks of another attempt"),
        pytest.param([a_head_that_said(the_last_report(), code=1)], id="it did not succeed"),
        pytest.param([], id="it is gone, and nobody saw it end"),
    ],
)
def test_of_a_success_without_last_words_all_is_done(seen: list[PodView]) -> None:
    changed = merge_patch(REPORT, settled(REPORT, SUCCEEDED, observed(seen), NAME))
    assert changed == {
        "progress": {"stage": "train", "percent": 100.0, "summary": "done", "step": 21},
        "stages": [
            {"name": "analyze", "state": "Succeeded"},
            {"name": "train", "state": "Succeeded", "startedAt": "x"},
        ],
    }


def test_last_words_that_had_to_be_short_leave_the_stages_to_the_reports_before() -> None:
    seen = observed([a_head_that_said(the_last_report(progress=None, stages=[]))])
    changed = merge_patch(REPORT, settled(REPORT, SUCCEEDED, seen, NAME))
    assert changed["result"] == LAST["result"]
    assert {stage["state"] for stage in changed["stages"]} == {"Succeeded"}
    assert changed["progress"]["summary"] == "done"
