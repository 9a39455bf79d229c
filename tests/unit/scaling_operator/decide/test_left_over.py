"""What is put right of a report whose driver is gone."""

from __future__ import annotations

from typing import Any

import pytest

from scaling_operator.decide import decide
from scaling_operator.decide.attempts import fail, succeed, suspend
from scaling_operator.decide.failure import deleted
from scaling_operator.decide.left_over import settled
from scaling_operator.decide.status import patch
from scaling_operator.decide.types import Memory
from tests.unit.scaling_operator.simulation.server import merge_patch

from .builders import NOW, at_work, head, job, observed, persisted

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
    changed = merge_patch(REPORT, settled(REPORT, memory))
    assert changed["progress"] == {"stage": "train", "percent": 42.3, "summary": "stopped at 42%", "step": 21}
    assert changed["stages"] == [
        {"name": "analyze", "state": "Succeeded"},
        {"name": "train", "state": train, "startedAt": "x"},
    ]
    assert settled(changed, memory) == {}


@pytest.mark.parametrize(
    ("status", "memory"),
    [
        pytest.param(REPORT, at_work(), id="it is at work"),
        pytest.param(REPORT, Memory(), id="there was no attempt"),
        pytest.param(REPORT, succeed(at_work(), now=NOW), id="it has succeeded"),
        pytest.param({}, LOST, id="it never reported"),
        pytest.param({"progress": {"summary": "stopped at 42%"}, "stages": []}, LOST, id="it said so itself"),
    ],
)
def test_nothing_is_changed(status: dict[str, Any], memory: Memory) -> None:
    assert settled(status, memory) == {}


def test_it_is_written_with_the_end_of_the_attempt() -> None:
    status = {**persisted(at_work()), **REPORT}
    decision = decide(job(), observed([head(phase="Failed")]), status, now=NOW)
    assert decision.status is not None
    assert decision.urgent
    assert patch(status, decision.status)["progress"]["summary"] == "stopped at 42%"
