from __future__ import annotations

import io

from rich.console import Console

from scaling_training.evaluate import Objective
from scaling_training.progress import ProgressModel
from scaling_training.progress.terminal import picture
from scaling_training.train.types import TrainingProgress


def drawn(model: ProgressModel) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=80, color_system=None).print(picture(model.snapshot(), elapsed_s=7.2))
    return buffer.getvalue()


def test_before_the_first_step_it_says_what_is_waited_for() -> None:
    model = ProgressModel("job", 1, ["train", "evaluate"])
    model.stage_started("train")
    model.say("starting Ray [local]")
    assert "▸ train" in drawn(model)
    assert "starting Ray [local]  7s" in drawn(model)
    assert "· evaluate" in drawn(model)


def test_training_has_a_bar_with_step_speed_time_left_and_accuracy() -> None:
    model = ProgressModel("job", 1, ["train"])
    model.stage_started("train")
    model.training(
        TrainingProgress(
            epoch=1,
            epochs=2,
            step=25,
            steps=50,
            workers=2,
            samples_per_second=20_000,
            eta_s=65,
            first_step_at=1.0,
            metrics={"valAccuracy": 0.97},
            objective=Objective("accuracy", "max"),
        )
    )
    text = drawn(model)
    assert len(text.splitlines()) == 2, "it fits a terminal of 80 columns"
    for part in (" 50%", "epoch 1/2", "step 25/50", "20,000 samples/s", "1m left", "validation accuracy 0.9700"):
        assert part in text


def test_an_evaluation_has_a_bar() -> None:
    model = ProgressModel("job", 1, ["train", "evaluate"])
    model.stage_started("evaluate")
    model.share(0.376)
    assert "▸ evaluate ━━━━━━━━━━━━━━━━━━━━  38%" in drawn(model)


def test_a_failed_stage_shows_its_sentence_and_a_reused_one_why() -> None:
    model = ProgressModel("job", 1, ["train", "evaluate"])
    model.stage_ended("train", "Reused")
    model.stage_ended("evaluate", "Failed", message="the disk is full [really]")
    text = drawn(model)
    assert "✓ train" in text
    assert "done before" in text
    assert "✗ evaluate the disk is full [really]" in text


def test_a_note_stays_below_its_stage() -> None:
    model = ProgressModel("job", 1, ["analyze", "train"])
    model.stage_started("analyze")
    model.note("700 images of 2 classes [all]")
    model.stage_ended("analyze", "Succeeded")
    model.stage_started("train")
    assert [line.strip() for line in drawn(model).splitlines()][:2] == [
        "✓ analyze 700 images of 2 classes [all]",
        "▸ train   starting  7s",
    ]
