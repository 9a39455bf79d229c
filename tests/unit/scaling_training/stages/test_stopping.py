"""A stop takes effect in every stage, however long the data takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling_api.spec import ScalingJobSpec
from scaling_training.engine.run import StoppedError, Watch
from scaling_training.engine.worker import WorkerTask
from scaling_training.ledger import Ledger
from scaling_training.progress import ProgressModel
from scaling_training.stages import STAGES
from scaling_training.stages.base import Run
from scaling_training.stages.pipeline import run_stages
from scaling_training.stages.stopping import unless_stopped
from scaling_training.storage import Storage
from scaling_training.train.types import TrainOutcome
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.stages.test_stages import WATCH, OneProcess

MODULE = "tests.unit.scaling_training.stages.test_stopping"


class Gate:
    """Where the data set's code waits, once it was asked to."""

    def __init__(self) -> None:
        self.where = ""
        self.reached = threading.Event()
        self.open = threading.Event()
        self.passed = False

    def at(self, place: str) -> None:
        if place == self.where:
            self.reached.set()
            self.open.wait(240)
            self.passed = True


gate = Gate()


class Items:
    """Forty pictures, each read through the gate."""

    targets = np.arange(40) % 2
    fingerprint = "forty"  # else some items are read for one before the first stage begins

    def __init__(self) -> None:
        # A thread that a test has left behind reads on, and must not meet the next test's gate.
        self._gate = gate

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        # Opening the data reads the first one; the training of OneProcess runs on the main thread.
        if index and threading.current_thread() is not threading.main_thread():
            self._gate.at("items")
        return np.full((1, 8, 8), index, dtype=np.uint8), int(self.targets[index])


def data() -> Items:
    gate.at("opening")
    return Items()


@pytest.fixture(autouse=True)
def _gate() -> Iterator[None]:
    global gate
    gate = Gate()
    yield
    gate.open.set()


class ThenGate(OneProcess):
    """The gate is shut when training has ended."""

    def __call__(self, task: WorkerTask, watch: Watch) -> TrainOutcome:
        outcome = super().__call__(task, watch)
        gate.where = "items"
        return outcome


@pytest.mark.parametrize(
    ("where", "stage"),
    [
        pytest.param("opening", None, id="while the data set is opened"),
        pytest.param("items", "analyze", id="analyze"),
        pytest.param("", "evaluate", id="evaluate"),
    ],
)
def test_a_stop_does_not_wait_for_the_data(where: str, stage: str | None, tmp_path: Path) -> None:
    gate.where = where
    spec = ScalingJobSpec.model_validate(
        {
            **a_spec(epochs=1, batchSize=8).to_json_dict(),
            "dataset": {"factory": f"{MODULE}:data", "loader": {"workers": 0}},
        }
    )
    storage = Storage(str(tmp_path))
    ledger = Ledger(storage, attempt=1)
    watch = replace(WATCH, stop_requested=gate.reached.is_set)
    run = Run("job", spec, storage, 1, None, ThenGate(), watch, ledger.publish)
    ledger.claim({})
    progress = ProgressModel("job", 1, [stage.name for stage in STAGES])
    with pytest.raises(StoppedError):
        run_stages(STAGES, run, ledger, progress)
    assert gate.reached.is_set()
    assert not gate.passed, "the data came before the stop did"
    running = [stage.name for stage in progress.snapshot().stages if stage.state == "Running"]
    assert running == ([stage] if stage else [])


def test_work_that_ends_in_time_gives_its_result_or_its_error() -> None:
    assert unless_stopped(lambda: 7, lambda: False) == 7

    def fails() -> None:
        raise ValueError("as it was")

    with pytest.raises(ValueError, match="as it was"):
        unless_stopped(fails, lambda: False)
