"""Update mode local in the loop: rounds, and what waits for their end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scaling_training.storage import Storage
from scaling_training.train import TrainOutcome, World
from scaling_training.train.history import parse_rows
from scaling_training.train.loop import train
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.worlds import in_world

# 1,259 samples in batches of 200: seven steps an epoch. Rounds end after steps 3, 6, 7, 10, 13 and 14.
DILOCO = {"mode": "local", "steps": 3, "outer": {"rate": 0.7, "momentum": 0.9, "nesterov": True}}


def run(world: World, root: str, attempt: int, update: dict[str, Any], stop_at: int | None, **training: Any) -> Any:
    asked = iter(range(1, 1000))
    return train(
        a_spec(batchSize=200, update=update, **training),
        storage=Storage(root),
        attempt=attempt,
        world=world,
        observer=lambda progress: None,
        stop_requested=lambda: next(asked) == stop_at,
        key="key",
        resume=None,
    )


def saving(world: World, root: str, every: int) -> Any:
    return run(world, root, 1, DILOCO, None, checkpoint={"everySteps": every, "keep": 100})


def result(root: Path, outcome: TrainOutcome) -> tuple[bytes, list[dict[str, float]]]:
    storage = Storage(str(root))
    rows = [dict(row) | {"seconds": 0} for row in parse_rows(storage.read(outcome.history))]
    return storage.read(f"{outcome.checkpoint.folder}/model.safetensors"), rows


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[dict[str, float]]]:
    root = tmp_path_factory.mktemp("straight")
    outcomes = in_world(2, run, str(root), 1, DILOCO, None)
    assert outcomes[0] == outcomes[1]
    assert (outcomes[0].stopped, outcomes[0].step) == (False, 14)
    return result(root, outcomes[0])


@pytest.mark.parametrize(("asked", "stopped_after"), [(1, 3), (3, 3), (4, 6), (7, 7), (8, 10)])
def test_a_stop_waits_for_the_end_of_the_round_and_the_resumed_run_is_the_straight_one_bit_for_bit(
    tmp_path: Path, straight: tuple[bytes, list[dict[str, float]]], asked: int, stopped_after: int
) -> None:
    stopped = in_world(2, run, str(tmp_path), 1, DILOCO, asked)
    assert [(outcome.stopped, outcome.step) for outcome in stopped] == [(True, stopped_after)] * 2
    resumed = in_world(2, run, str(tmp_path), 2, DILOCO, None)
    assert result(tmp_path, resumed[0]) == straight


def test_a_checkpoint_waits_for_the_end_of_the_round_and_changes_nothing(
    tmp_path: Path, straight: tuple[bytes, list[dict[str, float]]]
) -> None:
    outcome = in_world(2, saving, str(tmp_path), 5)[0]
    # Due after 5 and 10 steps, and at the end of each epoch.
    names = Storage(str(tmp_path)).names("checkpoints/attempt-0001")
    assert names == ["BASE.json", *(f"step-{step:08d}" for step in (6, 7, 10, 14))]
    assert result(tmp_path, outcome) == straight


def test_the_curves_hold_the_loss_of_all_samples(
    straight: tuple[bytes, list[dict[str, float]]], tmp_path: Path
) -> None:
    rows = straight[1]
    # Of the first epoch's samples, each weighed before its step: about the loss of mode sync, which is near.
    sync = in_world(2, run, str(tmp_path), 1, {"mode": "sync"}, None)[0]
    assert rows[0]["trainLoss"] == pytest.approx(result(tmp_path, sync)[1][0]["trainLoss"], rel=0.2)
    assert rows[-1]["trainLoss"] < rows[0]["trainLoss"]
