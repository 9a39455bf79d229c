from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from scaling_cli.status_view import age, line, outcome, picture

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def a_job(**status: Any) -> dict[str, Any]:
    metadata = {"name": "mnist", "namespace": "team", "creationTimestamp": "2026-01-01T11:59:00Z"}
    return {"metadata": metadata, **({"status": status} if status else {})}


def condition(kind: str, status: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": "Why", "message": message}


RUNNING = a_job(
    phase="Running",
    attempt=2,
    failures=1,
    workers="2/2",
    accuracy="0.9712",
    conditions=[condition("Running", "True")],
    workerGroups=[{"name": "cpu", "desired": 2, "ready": 2, "replaced": 1}],
    stages=[
        {"name": "train", "state": "Running", "startedAt": "2026-01-01T11:59:30Z"},
        {"name": "evaluate", "state": "Pending"},
    ],
    progress={
        "stage": "train",
        "percent": 42.0,
        "epoch": 4,
        "epochs": 10,
        "etaSeconds": 75,
        "summary": "42% (1m left)",
    },
)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        pytest.param(a_job(), "not seen by an operator yet", id="no status"),
        pytest.param(RUNNING, "Running, attempt 2, train 42% (1m left), workers 2/2, accuracy 0.9712", id="training"),
        pytest.param(
            a_job(phase="Starting", attempt=1, conditions=[condition("ClusterReady", "False", "1 of 2 workers")]),
            "Starting, attempt 1: 1 of 2 workers",
            id="waiting says for what",
        ),
        pytest.param(
            a_job(
                phase="Running",
                attempt=1,
                conditions=[condition("ClusterReady", "True", "2 workers"), condition("Stalled", "True", "no step")],
            ),
            "Running, attempt 1: no step",
            id="what does not advance says so",
        ),
        pytest.param(
            a_job(phase="Running", attempt=1, conditions=[condition("Failed", "False", "its time is over")]),
            "Running, attempt 1: its time is over",
            id="the driver saves at its deadline",
        ),
        pytest.param(
            a_job(phase="Failed", attempt=4, conditions=[condition("Failed", "True", "the image is missing")]),
            "Failed, attempt 4: the image is missing",
            id="a failure says why",
        ),
        pytest.param(
            a_job(phase="Succeeded", attempt=1, accuracy="0.98", conditions=[condition("Succeeded", "True")]),
            "Succeeded, attempt 1, accuracy 0.98",
            id="success, told by a driver of 0.1.0",
        ),
        pytest.param(
            a_job(phase="Running", attempt=1, objective={"metric": "mse", "value": 2859.12, "summary": "mse 2859"}),
            "Running, attempt 1, mse 2859.1200",
            id="a task without accuracy",
        ),
        pytest.param(
            a_job(phase="Running", attempt=1, objective={"metric": "r2", "summary": "r2 nan"}),
            "Running, attempt 1, r2 no number",
            id="an objective that is no number",
        ),
    ],
)
def test_line(job: dict[str, Any], expected: str) -> None:
    assert line(job) == expected


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], None),
        ([condition("Running", "True")], None),
        ([condition("Succeeded", "False"), condition("Failed", "False")], None),
        ([condition("Succeeded", "True")], True),
        ([condition("Failed", "True")], False),
    ],
    ids=["none", "running", "not yet", "succeeded", "failed"],
)
def test_outcome(conditions: list[dict[str, str]], expected: bool | None) -> None:
    assert outcome(a_job(phase="x", conditions=conditions)) is expected


def drawn(job: dict[str, Any]) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=150, color_system=None).print(picture(job, now=NOW))
    return buffer.getvalue()


def test_the_picture_shows_stages_progress_workers_and_conditions() -> None:
    text = drawn(RUNNING)
    for part in (
        "mnist in team",
        "60s",
        "2  1 failed",
        "cpu 2/2 ready, 1 replaced",
        "▸ train",
        " 42%",
        "1m left",
        "· evaluate",
    ):
        assert part.replace("1m left", "75s left") in text, part


def test_the_picture_shows_the_result() -> None:
    text = drawn(
        a_job(
            phase="Succeeded",
            result={"metrics": {"accuracy": 0.98123}, "artifacts": [{"name": "model", "uri": "/scaling/[x]/model"}]},
        )
    )
    assert "test accuracy  0.9812" in text
    assert "/scaling/[x]/model" in text


def test_the_picture_shows_no_secret_of_a_uri() -> None:
    artifacts = [{"name": "model", "uri": "https://me:pass@store/model?sig=abc"}]
    text = drawn(a_job(phase="Succeeded", result={"metrics": {}, "artifacts": artifacts}))
    assert "https://***@store/model?sig=***" in text


def test_the_picture_of_a_job_without_status() -> None:
    assert "not seen by an operator yet" in drawn(a_job())


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        ("2026-01-01T11:59:57Z", "3s"),
        ("2026-01-01T11:50:00Z", "10m00s"),
        ("2026-01-01T01:30:00Z", "10h30m"),
        ("2025-12-25T12:00:00Z", "7d"),
        (None, ""),
        ("soon", ""),
    ],
)
def test_age(timestamp: str | None, expected: str) -> None:
    assert age(timestamp, NOW) == expected
