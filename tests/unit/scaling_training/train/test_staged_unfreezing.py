"""Layers that are unfrozen on the way, in several processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling_api.spec import ScalingJobSpec
from scaling_training.train import World
from tests.unit.scaling_training.train.looped import (
    STEPS_PER_EPOCH,
    Run,
    a_run,
    assert_bit_for_bit,
    assert_same,
    on,
    run,
    run_alone,
)
from tests.unit.scaling_training.worlds import in_world

MESHES = ({"data": 2}, {"fsdp": 2})
# In epoch 1 the head alone, in epoch 2 also the dense layer before it, then all.
STAGES = [{"layers": "backbone", "untilEpoch": 1}, {"layers": "0", "untilEpoch": 2}]


def staged(every_epochs: int = 1, epochs: int = 3) -> ScalingJobSpec:
    return a_run(
        "small-cnn",
        model={"freeze": STAGES},
        epochs=epochs,
        checkpoint={"everyEpochs": every_epochs},
        parallelism={"batchNorm": "sync"},
    )


# Whether a checkpoint is written between two stages must make no difference.
EVERY = (1, 3)
STOPS = (STEPS_PER_EPOCH - 1, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 1, 2 * STEPS_PER_EPOCH)


def on_meshes(world: World, root: str) -> dict[str, dict[str, Run | None]]:
    """By mesh: undisturbed runs by how often they save, and those stopped around the stages and resumed."""
    found: dict[str, dict[str, Run | None]] = {}
    for mesh in MESHES:
        runs = found[str(mesh)] = {}
        for every in EVERY:
            runs[f"every {every}"] = run(world, on(staged(every), mesh), f"{root}/{mesh}-{every}")
        for stop in STOPS:
            spec, folder = on(staged(), mesh), f"{root}/{mesh}-stop-{stop}"
            run(world, spec, folder, stop_at=stop)
            runs[f"stopped at {stop}"] = run(world, spec, folder, attempt=2)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, Run]]:
    runs: Mapping[str, Mapping[str, Run]] = in_world(2, on_meshes, str(tmp_path_factory.mktemp("two")))[0]
    return runs


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_two_processes_unfreeze_as_one(tmp_path: Path, found: Mapping[str, Any], mesh: Mapping[str, int]) -> None:
    expected = run_alone(staged(), str(tmp_path / "three"))
    before = run_alone(staged(epochs=2), str(tmp_path / "two"))
    assert np.array_equal(before.weights["0.weight"], run_alone(staged(epochs=1), str(tmp_path)).weights["0.weight"])
    assert not np.array_equal(before.weights["0.weight"], expected.weights["0.weight"])
    for every in EVERY:
        assert_same(found[str(mesh)][f"every {every}"], expected, 1e-9, f"{mesh}, saved every {every} epochs")


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("stop", STOPS)
def test_a_resume_across_the_stages_is_the_straight_run_bit_for_bit(
    found: Mapping[str, Any], mesh: Mapping[str, int], stop: int
) -> None:
    assert_bit_for_bit(found[str(mesh)][f"stopped at {stop}"], found[str(mesh)]["every 1"])
