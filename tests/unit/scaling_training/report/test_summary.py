from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from scaling_training.report.summary import print_summary, shown_path

NONE = {"training": 0, "validation": 0, "test": 0}


def test_metrics_and_places_are_printed_whole(tmp_path: Path) -> None:
    scores = {"accuracy": 0.98765, "precision": 0.9, "recall": 0.8, "f1": 0.7, "loss": 0.1}
    long = f"s3://bucket/{'x' * 200}/model"
    buffer = io.StringIO()
    print_summary(
        Console(file=buffer, width=80),
        {
            "job": "mnist",
            "metrics": {"test": scores, "validation": scores},
            "skipped": NONE,
            "artifacts": {"model": long},
        },
    )
    text = buffer.getvalue()
    assert "0.9877" in text
    assert "F1" in text
    assert "mnist" in text
    assert "unreadable" not in text
    assert long in text


def test_paths_below_the_working_directory_are_shown_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_path(str(tmp_path / "runs/a")) == "runs/a"
    assert shown_path("/elsewhere/a") == "/elsewhere/a"
    assert shown_path("s3://bucket/a") == "s3://bucket/a"


def test_metrics_of_another_task_are_printed_by_their_names() -> None:
    buffer = io.StringIO()
    scores = {"loss": 2.0, "perplexity": 7.389, "top5Accuracy": 0.25}
    result = {"job": "text", "metrics": {"test": scores}, "skipped": NONE, "artifacts": {}}
    print_summary(Console(file=buffer, width=80), result)
    assert "perplexity" in buffer.getvalue()
    assert "7.3890" in buffer.getvalue()
    assert "top-5 accuracy" in buffer.getvalue()


def test_samples_that_could_not_be_read_are_in_the_table() -> None:
    buffer = io.StringIO()
    scores = {"loss": 0.25}
    result = {
        "job": "flowers",
        "metrics": {"test": scores, "validation": scores},
        "skipped": {"training": 31, "validation": 7, "test": 0},
        "artifacts": {},
    }
    print_summary(Console(file=buffer, width=80), result)
    (row,) = [line.split() for line in buffer.getvalue().splitlines() if line.startswith("unreadable samples")]
    assert row[2:] == ["0", "7"]
    assert "31 unreadable samples were replaced" in buffer.getvalue()
