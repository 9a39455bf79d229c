"""The last report, made to fit into a termination message."""

from __future__ import annotations

from scaling_api.driver import MAX_TERMINATION_BYTES, ProgressReport
from scaling_api.status import Artifact, Result
from scaling_training.evaluate import Objective
from scaling_training.progress import ProgressModel
from scaling_training.progress.last_words import last_words


def the_report(*, artifacts: int = 5, folder: str = "s3://runs/team/mnist-0123", message: str = "") -> ProgressReport:
    """That of a job whose report stage is done."""
    model = ProgressModel("mnist", 2, ["train", "report"])
    for stage in model.stages:
        model.stage_started(stage)
        model.stage_ended(stage, "Succeeded", message=message)
    made = [Artifact(name=f"artifact-{number}", uri=f"{folder}/{number}") for number in range(artifacts)]
    model.finish(Result(metrics={"accuracy": 0.97, "loss": 0.1}, artifacts=made), Objective("accuracy", "max"))
    return model.snapshot().report()


def read(text: str) -> ProgressReport:
    return ProgressReport.model_validate_json(text)


def test_the_whole_report_is_said_when_it_fits() -> None:
    assert read(last_words(the_report())) == the_report()


def test_stages_and_progress_are_left_out_first() -> None:
    report = the_report(message="é" * 1000)
    said = read(last_words(report))
    assert said.stages == []
    assert said.progress is None
    assert said.result == report.result
    assert said.accuracy == "0.9700"


def test_then_the_last_artifacts_and_never_the_metrics() -> None:
    report = the_report(artifacts=8, folder="s3://" + "é" * 400)
    text = last_words(report)
    said = read(text)
    assert said.result is not None
    assert report.result is not None
    assert len(text.encode()) <= MAX_TERMINATION_BYTES
    assert said.result.metrics == report.result.metrics
    assert 0 < len(said.result.artifacts) < 8
    assert said.result.artifacts == report.result.artifacts[: len(said.result.artifacts)]
