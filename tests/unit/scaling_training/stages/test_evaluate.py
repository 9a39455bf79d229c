"""Who evaluates: the driver what is soon done, the workers the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from scaling_api.spec import ScalingJobSpec
from scaling_training.data import open_dataset
from scaling_training.engine.run import StoppedError, Watch
from scaling_training.engine.worker import Evaluation, WorkerTask
from scaling_training.ledger import Output
from scaling_training.measure import measure
from scaling_training.stages import evaluate
from scaling_training.stages.base import Run
from scaling_training.storage import Storage
from scaling_training.train.types import TrainingProgress
from scaling_training.world import World
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.stages.test_stages import WATCH, OneProcess, go


class Workers:
    """The training workers, in this process."""

    def __init__(self) -> None:
        self.tasks: list[WorkerTask] = []

    def __call__(self, task: WorkerTask, watch: Watch) -> Output:
        assert isinstance(task.job, Evaluation)
        self.tasks.append(task)
        spec = ScalingJobSpec.model_validate(task.spec)
        dataset = open_dataset(spec.dataset)
        watch.progress(TrainingProgress(epoch=0, epochs=1, step=1, steps=4, workers=2))
        watch.mark("workerStarted", 1.0)
        found = measure(
            spec,
            {"test": dataset.open_test(task.job.access), "validation": dataset.validation},
            dataset=dataset,
            storage=Storage(task.storage_root),
            checkpoint=task.job.checkpoint,
            world=World(rank=0, size=1, device=torch.device("cpu")),
        )
        assert found is not None
        return {split: metrics.to_dict() for split, metrics in found.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Output]:
    """A run's folder, and what its training gave."""
    folder = tmp_path_factory.mktemp("trained")
    go(folder, spec=a_spec(epochs=1))
    return folder, json.loads((folder / "ledger/attempt-0001/train.json").read_text())["output"]


def never(name: str, data: bytes) -> None:
    raise AssertionError(f"{name} is not of evaluation")


def evaluated(
    trained: tuple[Path, Output], spec: ScalingJobSpec, workers: Workers | None, watch: Watch = WATCH
) -> dict[str, Any]:
    folder, output = trained
    run = Run("job", spec, Storage(str(folder)), 2, None, OneProcess(), watch, never, workers)
    return evaluate.STAGE.run(run, {"train": output})


def with_workers(**resources: str) -> ScalingJobSpec:
    group = {"name": "group", "max": 2, "resources": {"limits": {"cpu": "1", "memory": "2Gi", **resources}}}
    return ScalingJobSpec.model_validate({**a_spec(epochs=1).to_json_dict(), "cluster": {"workers": [group]}})


@pytest.mark.parametrize(
    ("spec", "patience_s", "by_workers"),
    [
        pytest.param(with_workers(), 1e9, False, id="what is soon done is not worth a group's start"),
        pytest.param(with_workers(), 0.0, True, id="what takes long is left to the workers"),
        pytest.param(with_workers(**{"nvidia.com/gpu": "1"}), 1e9, True, id="workers with GPUs"),
    ],
)
def test_the_workers_evaluate_what_they_are_better_at(
    trained: tuple[Path, Output],
    spec: ScalingJobSpec,
    patience_s: float,
    by_workers: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluate, "PATIENCE_S", patience_s)
    monkeypatch.setattr(evaluate, "LOOK_S", 0.0)
    workers = Workers()
    found = evaluated(trained, spec, workers)
    assert len(workers.tasks) == by_workers
    assert found == evaluated(trained, spec, None), "the numbers are the same"


def test_progress_is_the_stages_own_and_training_is_left_alone(trained: tuple[Path, Output]) -> None:
    shares: list[float] = []

    def never(*arguments: object) -> None:
        raise AssertionError(f"{arguments} are of training")

    watch = replace(WATCH, progress=never, mark=never, share=shares.append)
    evaluated(trained, with_workers(**{"nvidia.com/gpu": "1"}), Workers(), watch)
    assert shares == [0.25]
    evaluated(trained, with_workers(), None, watch)
    assert shares[1:] == sorted(shares[1:])
    assert shares[-1] == 1.0


def test_a_stop_ends_it(trained: tuple[Path, Output]) -> None:
    with pytest.raises(StoppedError):
        evaluated(trained, with_workers(), None, replace(WATCH, stop_requested=lambda: True))


@pytest.mark.parametrize(
    ("share", "elapsed_s", "expected"),
    [
        pytest.param(0.01, 1.9, False, id="too early to tell"),
        pytest.param(0.01, 2.0, True, id="198 s are left"),
        pytest.param(0.2, 5.0, False, id="just within patience"),
        pytest.param(0.2, 5.1, True, id="just beyond"),
        pytest.param(0.9, 60.0, False, id="long, but nearly done"),
    ],
)
def test_what_takes_long(share: float, elapsed_s: float, expected: bool) -> None:
    assert evaluate.takes_long(share, elapsed_s) is expected
