"""The table of update modes, and what a job does with it."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaling_api.spec import ModelSpec
from scaling_api.update import UpdateSpec
from scaling_training.models.vision_transformer import Block
from scaling_training.storage import Storage
from scaling_training.train import TrainOutcome, World
from scaling_training.train.async_loop import train_async
from scaling_training.train.history import parse_rows
from scaling_training.train.loop import train
from scaling_training.train.loops import loop_of
from scaling_training.train.setup import set_up
from scaling_training.update.meetings import EveryRound, EveryStep
from scaling_training.update.modes import UPDATE_MODES
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.worlds import in_world

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def test_the_api_names_the_modes_of_the_table() -> None:
    assert set(typing.get_args(UpdateSpec.model_fields["mode"].annotation)) == set(UPDATE_MODES)


def test_each_mode_has_its_loop_and_its_meetings() -> None:
    assert loop_of(a_spec(update={"mode": "async"})) is train_async
    assert [name for name, mode in UPDATE_MODES.items() if mode.parameter_server] == ["async"]
    assert isinstance(set_up(a_spec(), ALONE).meetings, EveryStep)
    assert isinstance(set_up(a_spec(update={"mode": "local", "steps": 2}), ALONE).meetings, EveryRound)


ELASTIC: dict[str, Any] = {
    "batchSize": 200,
    "schedule": {"name": "constant"},
    "optimizer": {"name": "sgd", "learningRate": 0.01},
    "elastic": {"batch": "perWorker", "referenceWorkers": 2, "warmupEpochs": 0},
}


def run(world: World, root: str, attempt: int, stop_at: int | None) -> TrainOutcome:
    asked = iter(range(1, 1000))
    return train(
        a_spec(**ELASTIC),
        storage=Storage(root),
        attempt=attempt,
        world=world,
        observer=lambda progress: None,
        stop_requested=lambda: next(asked) == stop_at,
        key="key",
        resume=None,
    )


def test_a_batch_per_worker_follows_the_workers_across_a_resume(tmp_path: Path) -> None:
    # Two workers, the reference: 200 samples a step. Stopped after three of seven steps, with 659 samples left of
    # the epoch. Three workers take 300 at a step: three steps to its end, then five of the next epoch.
    stopped = in_world(2, run, str(tmp_path), 1, 3)[0]
    assert (stopped.stopped, stopped.step) == (True, 3)
    outcome = in_world(3, run, str(tmp_path), 2, None)[0]
    assert (outcome.stopped, outcome.epoch, outcome.step) == (False, 2, 3 + 3 + 5)
    rows = parse_rows(Storage(str(tmp_path)).read(outcome.history))
    assert [row["step"] for row in rows] == [6, 11]
    assert [row["learningRate"] for row in rows] == pytest.approx([0.015, 0.015])


@pytest.mark.parametrize("update", [{"mode": "sync"}, {"mode": "local", "steps": 2}, {"mode": "async"}])
def test_activations_are_computed_again_in_every_mode(update: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    plain = Block.forward

    def counted(block: Block, values: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return plain(block, values)

    monkeypatch.setattr(Block, "forward", counted)
    spec = a_spec(update=update, activationCheckpointing=True)
    setup = set_up(spec.model_copy(update={"model": ModelSpec(name="vit-tiny")}), ALONE)
    batch = setup.training.get(0, np.arange(4))
    setup.replica.forward_backward(batch, scale=1.0)
    assert calls == 2 * sum(isinstance(module, Block) for module in setup.task.model.modules())
