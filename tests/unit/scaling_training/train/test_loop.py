"""The loop in one process. `test_worlds` runs it in several."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaling_api.spec import ScalingJobSpec
from scaling_training.checkpoint import CheckpointRef
from scaling_training.data import loader
from scaling_training.errors import UserError
from scaling_training.models.task import ClassificationTask
from scaling_training.storage import Storage
from scaling_training.train import TrainingProgress, TrainOutcome, World, preload
from scaling_training.train.history import Row, history_name, parse_rows
from scaling_training.train.loop import train
from scaling_training.train.setup import Setup
from scaling_training.train.validation import validate
from scaling_training.world.heartbeat import Beat, Phase, silent
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.data.folders import fill, folder_spec
from tests.unit.scaling_training.measured import measured_alone

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
STEPS = 6  # of a_spec(): two epochs of three steps


def never() -> bool:
    return False


def trained(
    root: Path,
    spec: ScalingJobSpec | None = None,
    *,
    attempt: int = 1,
    observer: Callable[[TrainingProgress], None] = lambda progress: None,
    stop_requested: Callable[[], bool] = never,
    resume: CheckpointRef | None = None,
    beat: Beat = silent,
) -> TrainOutcome:
    return train(
        spec or a_spec(),
        storage=Storage(str(root)),
        attempt=attempt,
        world=ALONE,
        observer=observer,
        stop_requested=stop_requested,
        key="key",
        resume=resume,
        beat=beat,
    )


def stop_at(step: int) -> Callable[[], bool]:
    """A stop that is asked for while step number ``step`` (from 1) is taken."""
    asked = iter(range(1, 1000))
    return lambda: next(asked) == step


def weights(root: Path, outcome: TrainOutcome) -> bytes:
    return Storage(str(root)).read(f"{outcome.checkpoint.folder}/model.safetensors")


def curves(root: Path, outcome: TrainOutcome) -> list[Row]:
    """The rows but for the time, which no two runs share."""
    return rows_of(root, outcome.history)


def rows_of(root: Path, history: str) -> list[Row]:
    rows = parse_rows(Storage(str(root)).read(history))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Row]]:
    """Weights and curves of a run that nothing disturbed."""
    root = tmp_path_factory.mktemp("straight")
    outcome = trained(root)
    return weights(root, outcome), curves(root, outcome)


def test_a_run_ends_with_curves_checkpoints_and_what_it_learned(tmp_path: Path) -> None:
    spec = a_spec(epochs=4, batchSize=64, optimizer={"name": "adam", "learningRate": 0.03})
    outcome = trained(tmp_path, spec)
    rows = curves(tmp_path, outcome)

    assert (outcome.stopped, outcome.epoch, outcome.step) == (False, 4, 80)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert set(rows[0]) == {
        *("epoch", "step", "trainLoss", "learningRate"),
        *(
            "valLoss",
            "valNll",
            "valAccuracy",
            "valPrecision",
            "valRecall",
            "valF1",
            "valTop5Accuracy",
            "valCalibrationError",
        ),
    }
    assert rows[-1]["trainLoss"] < rows[0]["trainLoss"] / 2
    assert outcome.best is not None
    found = measured_alone(spec, tmp_path, outcome.best)
    assert found["test"].samples == 359
    assert found["test"].scalars()["accuracy"] > 0.8  # 0.1 is chance
    assert found["validation"].scalars() == pytest.approx(outcome.metrics)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_stopped_after_any_step_and_resumed_is_the_straight_run_bit_for_bit(
    tmp_path: Path, straight: tuple[bytes, list[Row]], step: int
) -> None:
    stopped = trained(tmp_path, stop_requested=stop_at(step))
    assert (stopped.stopped, stopped.step, stopped.checkpoint.step) == (True, step, step)

    resumed = trained(tmp_path, attempt=2)
    assert (resumed.stopped, resumed.step) == (False, STEPS)
    assert (weights(tmp_path, resumed), curves(tmp_path, resumed)) == straight


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("same_attempt", [True, False], ids=["workers restarted", "new attempt"])
@pytest.mark.parametrize("writes", [2, 5, 8, 11, 13, 16])
def test_killed_at_any_write_and_resumed_is_the_straight_run_bit_for_bit(
    tmp_path: Path,
    straight: tuple[bytes, list[Row]],
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
    same_attempt: bool,
) -> None:
    left = iter(range(writes))
    write = Storage.write

    def write_or_die(self: Storage, name: str, data: bytes) -> None:
        if next(left, None) is None:
            raise Killed
        write(self, name, data)

    spec = a_spec(checkpoint={"everySteps": 2})
    with monkeypatch.context() as patched:
        patched.setattr(Storage, "write", write_or_die)
        with pytest.raises(Killed):
            trained(tmp_path, spec)
    resumed = trained(tmp_path, spec, attempt=1 if same_attempt else 2)
    assert (weights(tmp_path, resumed), curves(tmp_path, resumed)) == straight


def test_a_finished_run_asked_again_has_nothing_left_to_do(tmp_path: Path) -> None:
    first = trained(tmp_path)
    again = trained(tmp_path, attempt=2)

    assert again.first_step_at is None
    assert (again.checkpoint, again.best, again.metrics) == (first.checkpoint, first.best, first.metrics)
    assert curves(tmp_path, again) == curves(tmp_path, first)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    tmp_path: Path, straight: tuple[bytes, list[Row]], caplog: pytest.LogCaptureFixture
) -> None:
    outcome = trained(tmp_path, stop_requested=stop_at(5))
    (tmp_path / outcome.checkpoint.folder / "optimizer.safetensors").write_bytes(b"")

    seen: list[TrainingProgress] = []
    with caplog.at_level(logging.WARNING):
        resumed = trained(tmp_path, attempt=2, observer=seen.append)
    assert seen[0].step == 3
    assert "optimizer.safetensors has 0 bytes" in caplog.text
    assert (weights(tmp_path, resumed), curves(tmp_path, resumed)) == straight


def test_another_runs_checkpoint_is_gone_on_from(tmp_path: Path, straight: tuple[bytes, list[Row]]) -> None:
    earlier = trained(tmp_path / "earlier", stop_requested=stop_at(4))
    assert earlier.best is not None
    resume = CheckpointRef(earlier.checkpoint.folder, 1, 4, root=str(tmp_path / "earlier"))
    resumed = trained(tmp_path / "later", resume=resume)

    assert (weights(tmp_path / "later", resumed), curves(tmp_path / "later", resumed)) == straight


def test_a_best_checkpoint_of_another_run_is_still_found(tmp_path: Path) -> None:
    # A rate of almost 0 in the second epoch would not do: equal accuracy goes by loss. So: stop at the very end.
    earlier = trained(tmp_path / "earlier")
    assert earlier.best is not None
    resume = CheckpointRef(earlier.checkpoint.folder, 1, STEPS, root=str(tmp_path / "earlier"))
    later = trained(tmp_path / "later", resume=resume)

    assert later.best is not None
    assert later.best.root == str(tmp_path / "earlier")
    found = measured_alone(a_spec(), tmp_path / "later", later.best)
    assert found["validation"].scalars() == pytest.approx(earlier.metrics)


def test_progress_is_told_from_the_start_to_the_end(tmp_path: Path) -> None:
    seen: list[TrainingProgress] = []
    outcome = trained(tmp_path, observer=seen.append)

    assert (seen[0].step, seen[0].first_step_at) == (0, None)
    assert (seen[1].step, seen[1].first_step_at) == (1, outcome.first_step_at)
    assert [progress.step for progress in seen] == sorted(progress.step for progress in seen)
    last = seen[-1]
    assert (last.epoch, last.step, last.steps, last.percent, last.workers) == (2, STEPS, STEPS, 100.0, 1)
    assert last.checkpoint == outcome.checkpoint.folder
    assert {"trainLoss", "learningRate", "valAccuracy", "valLoss"} <= set(last.metrics)


# With weight decay 1 and rate 10 each step multiplies the weights by -9, until they overflow.
DIVERGING = {"optimizer": {"name": "sgd", "learningRate": 10.0, "weightDecay": 1.0}, "schedule": {"name": "constant"}}


# Which of them overflows first is a matter of the model.
_DIVERGED = r"training (loss|gradient's norm) became (nan|inf) at step \d+ \(epoch 1\).*Rate \(10\)"


def test_a_training_loss_that_is_not_finite_ends_the_run_with_advice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=_DIVERGED):
        trained(tmp_path, a_spec(batchSize=16, **DIVERGING))


def rows_of_numbers() -> Any:
    rows = np.linspace(-1, 1, 300, dtype=np.float32).reshape(100, 3)
    rows[17] = 2e38
    return {part: (rows, np.arange(100) % 2) for part in ("train", "validation", "test")}


def of_numbers(classes: int) -> ClassificationTask:
    return ClassificationTask(torch.nn.Linear(3, 2), classes)


def test_inputs_that_no_learning_rate_helps_with_are_named(tmp_path: Path) -> None:
    spec = ScalingJobSpec.model_validate(
        {
            "model": {"factory": f"{__name__}:of_numbers"},
            "dataset": {"factory": f"{__name__}:rows_of_numbers"},
            "training": {"epochs": 1, "batchSize": 100, "optimizer": {"name": "sgd", "learningRate": 0.1}},
        }
    )
    sentence = r"at step 1 \(epoch 1\): the inputs of sample 17 reach 2e\+38: bring them to about mean 0 .* else lower"
    with pytest.raises(UserError, match=sentence):
        trained(tmp_path, spec)


def test_weights_that_validate_to_nothing_are_not_saved_over_good_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = iter((1, 2))

    def spoilt(setup: Setup) -> Any:
        if next(epochs) == 2:
            torch.nn.init.constant_(setup.parameters[0], math.nan)
        return validate(setup)

    monkeypatch.setattr("scaling_training.train.loop.validate", spoilt)
    with pytest.raises(UserError, match=r"validation loss became (nan|inf) after step 6 ") as caught:
        trained(tmp_path, a_spec())
    kept = str(caught.value).rpartition("; ")[2].removesuffix(" is kept")
    assert (tmp_path / kept / "MANIFEST.json").is_file()
    assert all(math.isfinite(value) for row in rows_of(tmp_path, history_name(1)) for value in row.values())


def test_no_reader_is_forked_in_the_midst_of_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(3)\ndone = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(preload, "METRICS_MODULES", ("slow_to_import",))
    read = loader._Reader.__getitem__

    def checked(reader: loader._Reader, work: Any) -> Any:
        """In the forked process."""
        module = sys.modules.get("slow_to_import")
        if module is not None and not hasattr(module, "done"):
            return None, UserError("forked while the module was half imported")
        return read(reader, work)

    monkeypatch.setattr(loader._Reader, "__getitem__", checked)
    fill(tmp_path / "pictures", {"a": 20, "b": 20})
    dataset = folder_spec(tmp_path / "pictures", loader={"workers": 1})
    trained(tmp_path / "run", a_spec(epochs=1, batchSize=16).model_copy(update={"dataset": dataset}))


def test_checkpoints_come_when_they_are_due(tmp_path: Path) -> None:
    trained(tmp_path, a_spec(epochs=3, checkpoint={"everyEpochs": 2, "everySteps": 4, "keep": 10}))
    names = Storage(str(tmp_path)).names("checkpoints/attempt-0001")
    # Step 4 and 8 by everySteps, 6 by everyEpochs, 9 because it is the end.
    assert names == ["BASE.json", *(f"step-0000000{step}" for step in (4, 6, 8, 9))]


def test_a_watchdog_is_told_what_a_save_takes_by_its_size_and_then_by_the_longest_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, told = Storage.write, list[float]()

    def write_slowly(self: Storage, name: str, data: bytes) -> None:
        if name.endswith("MANIFEST.json"):
            time.sleep(1.0)
        write(self, name, data)

    def beat(phase: Phase, step: int, *, expected_s: float = 0.0) -> None:
        if phase is Phase.SAVE:
            told.append(expected_s)

    monkeypatch.setattr(Storage, "write", write_slowly)
    trained(tmp_path, beat=beat)
    assert 0.0 < told[0] < 0.1, "of a few kilobytes"
    assert told[-1] >= 1.0, "that training did not wait for"


def test_a_watchdog_is_told_what_a_resume_may_take(tmp_path: Path) -> None:
    expected: list[float] = []

    def beat(phase: Phase, step: int, *, expected_s: float = 0.0) -> None:
        if phase is Phase.START:
            expected.append(expected_s)

    trained(tmp_path, beat=beat)
    assert not expected
    trained(tmp_path, attempt=2, beat=beat)
    assert max(expected) > 0


def test_evaluating_a_damaged_checkpoint_is_the_users_to_mend(tmp_path: Path) -> None:
    outcome = trained(tmp_path, stop_requested=stop_at(1))
    (tmp_path / outcome.checkpoint.folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"step-00000001 cannot be used: model.safetensors"):
        measured_alone(a_spec(), tmp_path, outcome.checkpoint)


def test_a_checkpoint_of_another_width_does_not_fit(tmp_path: Path) -> None:
    outcome = trained(tmp_path, stop_requested=stop_at(1))
    spec = a_spec()
    wide = spec.model_copy(update={"model": spec.model.model_copy(update={"width": 1.0})})
    with pytest.raises(UserError, match=r"weights do not fit spec.model: size mismatch"):
        measured_alone(wide, tmp_path, outcome.checkpoint)


def test_a_gradient_that_is_no_number_moves_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = iter(range(1, 100))

    def clip(parameters: Any, most: float, **options: Any) -> torch.Tensor:
        return torch.tensor(math.nan if next(clips) == STEPS - 1 else 1.0)

    monkeypatch.setattr("scaling_training.train.step.clip_gradients", clip)
    with pytest.raises(UserError, match=r"the training gradient's norm became nan at step 5 .*step-00000003 is kept"):
        trained(tmp_path, a_spec(clipNorm=1.0))
