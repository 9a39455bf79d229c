from __future__ import annotations

from scaling_training.evaluate import Objective
from scaling_training.progress import ProgressModel
from scaling_training.progress.lines import LineShow, training_line
from scaling_training.train.types import TrainingProgress


def training(epoch: int, step: int) -> TrainingProgress:
    return TrainingProgress(epoch=epoch, epochs=3, step=step, steps=30, workers=2, first_step_at=1.0)


def test_a_line_tells_epoch_step_speed_and_scores() -> None:
    progress = TrainingProgress(
        epoch=3,
        epochs=10,
        step=84,
        steps=280,
        workers=2,
        samples_per_second=1234.4,
        eta_s=12.2,
        metrics={"trainLoss": 0.12345, "valAccuracy": 0.9712},
        objective=Objective("accuracy", "max"),
    )
    assert training_line(progress) == (
        "epoch 3/10, step 84/280 (30%), 1,234 samples/s, 12s left, loss 0.1235, validation accuracy 0.9712"
    )


def test_one_line_per_stage_epoch_and_message_but_not_per_step() -> None:
    model = ProgressModel("job", 1, ["train", "evaluate"])
    lines: list[str] = []
    show = LineShow(model, lines.append, interval_s=3600)

    def look() -> None:
        show._show(model.snapshot())

    model.stage_started("train")
    look()
    model.say("waiting for workers")
    look()
    model.say("")
    for step in range(1, 25):
        model.training(training(step // 10, step))
        look()
    model.stage_ended("train", "Succeeded")
    model.stage_ended("evaluate", "Failed", message="the disk is full")
    look()
    assert lines == [
        "stage train begins",
        "waiting for workers",
        "epoch 0/3, step 1/30 (3%)",
        "epoch 1/3, step 10/30 (33%)",
        "epoch 2/3, step 20/30 (67%)",
        "stage train is done",
        "stage evaluate failed: the disk is full",
    ]


def test_an_evaluation_has_a_line_every_interval() -> None:
    model = ProgressModel("job", 1, ["train", "evaluate"])
    lines: list[str] = []
    show = LineShow(model, lines.append, interval_s=0.0)
    model.training(training(3, 30))
    model.stage_started("evaluate")
    for share in (0.25, 0.376):
        model.share(share)
        show._show(model.snapshot())
    assert lines == ["stage evaluate begins", "stage evaluate: 25% done", "stage evaluate: 38% done"]


def test_a_line_at_least_every_interval() -> None:
    model = ProgressModel("job", 1, ["train"])
    lines: list[str] = []
    show = LineShow(model, lines.append, interval_s=0.0)
    model.stage_started("train")
    for step in (1, 2, 3):
        model.training(training(0, step))
        show._show(model.snapshot())
    assert len(lines) == 4


def test_the_thread_writes_the_end_and_stops() -> None:
    model = ProgressModel("job", 1, ["train"])
    lines: list[str] = []
    show = LineShow(model, lines.append)
    show.start()
    model.stage_started("train")
    model.stage_ended("train", "Succeeded")
    model.finish(None)
    show.close()
    assert lines[-1] == "stage train is done"


def test_a_note_is_one_line_after_its_stage_has_begun() -> None:
    model = ProgressModel("job", 1, ["analyze", "train"])
    lines: list[str] = []
    show = LineShow(model, lines.append)
    model.stage_started("analyze")
    model.note("700 images of 2 classes")
    show._show(model.snapshot())
    model.stage_ended("analyze", "Succeeded")
    show._show(model.snapshot())
    assert lines == ["stage analyze begins", "700 images of 2 classes", "stage analyze is done"]
