"""A rate that depends on the curves is the same on every rank, although rank 0 alone measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

from scaling_training.storage import Storage
from scaling_training.train import World, loop
from scaling_training.train.step import train_step
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.worlds import in_world


def rates(world: World, root: str) -> list[float]:
    """The rate of each step of a run whose validation loss never falls by more than half."""
    seen = []

    def recording(setup: Any, *arguments: Any, **more: Any) -> Any:
        result = train_step(setup, *arguments, **more)
        seen.append(setup.optimizer.param_groups[0]["lr"])
        return result

    schedule = {"name": "plateau", "patience": 1, "threshold": 0.9, "factor": 0.5}
    with patch.object(loop, "train_step", recording):
        loop.train(
            a_spec(epochs=3, batchSize=1259, schedule=schedule, optimizer={"name": "sgd", "learningRate": 0.25}),
            storage=Storage(root),
            attempt=1,
            world=world,
            observer=lambda progress: None,
            stop_requested=lambda: False,
            key="key",
            resume=None,
        )
    return seen


def test_all_ranks_drop_the_rate_together(tmp_path: Path) -> None:
    assert in_world(2, rates, str(tmp_path)) == [[0.25, 0.25, 0.125]] * 2
