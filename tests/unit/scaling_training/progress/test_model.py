from __future__ import annotations

import math
import threading
import time

from scaling_api.status import Objective, Result
from scaling_training import evaluate
from scaling_training.progress import ProgressModel
from scaling_training.train.types import TrainingProgress

ACCURACY = evaluate.Objective("accuracy", "max")
STAGES = ["train", "evaluate", "report"]


def model() -> ProgressModel:
    return ProgressModel("job", 2, STAGES)


def training(step: int = 21, **fields: object) -> TrainingProgress:
    values: dict[str, object] = {"epoch": 1, "epochs": 2, "step": step, "steps": 50, "workers": 2, **fields}
    return TrainingProgress(**values)  # type: ignore[arg-type]


def test_a_fresh_run_reports_all_stages_as_pending_and_no_progress() -> None:
    report = model().snapshot().report()
    assert [(stage.name, stage.state) for stage in report.stages] == [(name, "Pending") for name in STAGES]
    assert report.progress is None
    assert report.attempt == report.reported_attempt == 2


def test_training_shows_as_percent_eta_and_summary() -> None:
    progress = model()
    progress.stage_started("train")
    progress.training(
        training(
            eta_s=170.2,
            samples_per_second=1234.56,
            metrics={"trainLoss": 0.5, "valAccuracy": 0.97123},
            objective=ACCURACY,
        )
    )
    report = progress.snapshot().report()
    assert report.progress is not None
    assert report.progress.percent == 42.0
    assert report.progress.summary == "42% (3m left)"
    assert report.progress.eta_seconds == 170
    assert report.progress.samples_per_second == 1234.6
    assert report.accuracy == "0.9712"
    assert report.objective == Objective(
        metric="accuracy", mode="max", split="validation", value=0.97123, summary="accuracy 0.9712"
    )
    assert report.stages[0].state == "Running"
    assert report.stages[0].started_at


def test_a_stage_other_than_training_shows_how_much_of_it_is_done() -> None:
    progress = model()
    progress.training(training())
    progress.stage_started("evaluate")
    landmark = progress.snapshot().landmark
    progress.share(0.376)
    report = progress.snapshot().report()
    assert report.progress is not None
    assert (report.progress.stage, report.progress.percent) == ("evaluate", 37.6)
    assert report.progress.summary == "evaluate 38%"
    assert progress.snapshot().landmark == landmark, "no batch is worth a report of its own"
    progress.stage_ended("evaluate", "Succeeded")
    progress.share(0.9)
    report = progress.snapshot().report()
    assert report.progress is not None
    assert (report.progress.percent, report.progress.summary) == (100.0, "evaluate")


def test_a_stage_that_fails_has_no_time_left() -> None:
    progress = model()
    progress.stage_started("train")
    progress.training(training(eta_s=170.2))
    progress.stage_ended("train", "Failed", message="the loss is no number")
    report = progress.snapshot().report()
    assert report.progress is not None
    assert (report.progress.summary, report.progress.eta_seconds) == ("stopped at 42%", None)
    assert (report.stages[0].state, report.stages[0].message) == ("Failed", "the loss is no number")


def test_a_stage_that_is_stopped_is_the_next_attempts_to_do() -> None:
    progress = model()
    progress.stage_started("train")
    progress.training(training(eta_s=170.2))
    progress.say("waiting for workers")
    progress.finish(None)
    report = progress.snapshot().report()
    assert report.progress is not None
    assert (report.progress.summary, report.progress.eta_seconds) == ("stopped at 42%", None)
    assert (report.stages[0].state, report.stages[0].message) == ("Pending", None)


def test_a_stage_other_than_training_that_is_stopped() -> None:
    progress = model()
    progress.stage_started("evaluate")
    progress.finish(None)
    report = progress.snapshot().report()
    assert report.progress is not None
    assert report.progress.summary == "stopped"


def test_numbers_that_json_cannot_hold_are_left_out() -> None:
    progress = model()
    progress.stage_started("train")
    progress.training(training(eta_s=math.inf, samples_per_second=math.nan, metrics={"trainLoss": math.nan, "x": 1.0}))
    sent = progress.snapshot().report().to_json_dict()["progress"]
    assert sent["metrics"] == {"x": 1.0}
    assert "etaSeconds" not in sent
    assert "samplesPerSecond" not in sent


def test_the_first_step_is_kept_over_restarts_of_the_group() -> None:
    progress = model()
    progress.stage_started("train")
    progress.training(training(first_step_at=1_700_000_000.0))
    progress.training(training(first_step_at=1_700_000_999.0))
    report = progress.snapshot().report()
    assert report.progress is not None
    assert report.progress.first_step_at == "2023-11-14T22:13:20Z"


def test_landmarks_are_stages_messages_the_first_step_and_the_end_but_not_each_step() -> None:
    progress = model()

    def landmark() -> int:
        return progress.snapshot().landmark

    progress.stage_started("train")
    started = landmark()
    assert started > 0
    progress.training(training(first_step_at=1.0))
    first = landmark()
    assert first > started
    for step in range(5):
        progress.training(training(step, first_step_at=1.0))
    assert landmark() == first
    progress.say("waiting for workers")
    assert landmark() > first
    progress.stage_ended("train", "Succeeded")
    ended = landmark()
    progress.finish(Result(metrics={"accuracy": 0.9}), objective=ACCURACY)
    assert landmark() > ended


def test_a_message_stands_at_the_stage_at_work_and_goes_away() -> None:
    progress = model()
    progress.stage_started("train")
    progress.say("waiting for workers: 1 of 2 slots are there")
    assert progress.snapshot().report().stages[0].message == "waiting for workers: 1 of 2 slots are there"
    progress.say("")
    assert progress.snapshot().report().stages[0].message is None


def test_a_reused_stage_keeps_its_old_times() -> None:
    progress = model()
    progress.stage_ended("train", "Reused", started_at="2026-01-01T00:00:00Z", finished_at="2026-01-01T00:05:00Z")
    stage = progress.snapshot().report().stages[0]
    assert (stage.state, stage.started_at, stage.finished_at) == (
        "Reused",
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:05:00Z",
    )


def test_waiting_ends_with_a_change() -> None:
    progress = model()
    threading.Timer(0.05, progress.stage_started, ["train"]).start()
    began = time.monotonic()
    assert progress.wait(0, timeout_s=60).stages[0].state == "Running"
    assert time.monotonic() - began < 50


def test_waiting_for_a_landmark_passes_over_steps() -> None:
    progress = model()
    progress.stage_started("train")
    landmark = progress.snapshot().landmark
    progress.training(training())
    began = time.monotonic()
    progress.wait(landmark, timeout_s=0.1, landmarks=True)
    assert time.monotonic() - began >= 0.09


def test_what_a_stage_notes_stays_and_is_its_message_until_something_goes_wrong() -> None:
    progress = model()
    progress.stage_started("train")
    progress.note("700 images of 2 classes")
    progress.note("weights of s3://key:secret@bucket/w.pt")
    progress.note("700 images of 2 classes")
    progress.say("waiting for workers")
    assert progress.snapshot().report().stages[0].message == "waiting for workers"
    progress.say("")
    progress.stage_ended("train", "Succeeded")
    message = progress.snapshot().report().stages[0].message
    assert message is not None
    assert message.startswith("700 images of 2 classes; weights of s3://")
    assert "secret" not in message


def test_a_task_is_shown_by_its_own_objective() -> None:
    error = evaluate.Objective("mse", "min")
    progress = model()
    progress.stage_started("train")
    progress.training(training(metrics={"trainLoss": 9.0}, objective=error))
    assert progress.snapshot().report().objective is None, "nothing is validated yet"
    progress.training(training(metrics={"trainLoss": 9.0, "valMse": 2859.12345678, "valLoss": 9.5}, objective=error))
    told = progress.snapshot().report().objective
    assert told is not None
    assert (told.metric, told.mode, told.value, told.summary) == ("mse", "min", 2859.123457, "mse 2859.1235")
    progress.training(training(metrics={"valMse": math.nan, "valLoss": 9.5}, objective=error))
    told = progress.snapshot().report().objective
    assert told is not None
    assert (told.value, told.summary) == (None, "mse nan")
    progress.finish(Result(metrics={"mse": 3000.5}), objective=error)
    report = progress.snapshot().report()
    assert report.objective is not None
    assert (report.objective.split, report.objective.summary) == ("test", "mse 3000.5000")
    assert report.accuracy is None
