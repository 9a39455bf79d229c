"""Killed on data 2 x fsdp 2, a run goes on with any number of processes and on any mesh, within what the docs state."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from scaling_api.spec import ScalingJobSpec
from scaling_training.train import World
from tests.unit.scaling_training.train.killed import newest_committed, trained, wait_for_a_step
from tests.unit.scaling_training.train.looped import Run, a_run, assert_same, on, run, run_alone
from tests.unit.scaling_training.worlds import in_world, started

pytestmark = pytest.mark.timeout(900)

BEFORE = {"data": 2, "fsdp": 2}
AFTER: tuple[Mapping[str, int], ...] = ({}, {"data": 3}, {"data": 4}, {"fsdp": 2}, {"tensor": 2}, {"data": 2})
# docs/checkpoints.md, for steps as few as these.
TOLERANCE = {64: 1e-9, 32: 1e-5}
STEPS, KILLED_AFTER, HELD_AT = 16, 4, 12


def a_spec(bits: int) -> ScalingJobSpec:
    """Four steps an epoch, with all that a checkpoint holds."""
    return a_run(
        "small-cnn",
        bits=bits,
        mixup=0.4,
        epochs=4,
        batchSize=18,
        optimizer={"name": "adamw", "learningRate": 0.003},
        clipNorm=1.0,
        ema={"decay": 0.8},
        schedule={"name": "one-cycle", "warmupFraction": 0.3},
        checkpoint={"everySteps": 1},
        parallelism={"batchNorm": "sync"},
    )


def gone_on(world: World, root: str, specs: Mapping[str, ScalingJobSpec]) -> dict[str, Run | None]:
    """Each run to its end, in the folder of its name."""
    return {name: run(world, spec, f"{root}/{name}", attempt=2) for name, spec in specs.items()}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Path]:
    """Folders of runs that were killed, by bits."""
    folders = {bits: tmp_path_factory.mktemp(f"killed-{bits}") for bits in TOLERANCE}
    for bits, folder in folders.items():
        arguments = (on(a_spec(bits), BEFORE), str(folder), 1, str(folder / "losses-0"), HELD_AT)
        with started(4, trained, *arguments) as running:
            wait_for_a_step(running, folder / "losses-0", KILLED_AFTER)
            for process in running.processes:
                process.kill()
        assert 0 < newest_committed(folder) < STEPS
    return folders


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Run]:
    """The undisturbed runs on one process, by bits."""
    return {bits: run_alone(a_spec(bits), str(tmp_path_factory.mktemp(f"straight-{bits}"))) for bits in TOLERANCE}


@pytest.mark.parametrize("size", sorted({math.prod(mesh.values()) for mesh in AFTER}))
def test_it_goes_on_within_the_stated_tolerance(
    tmp_path: Path, killed: Mapping[int, Path], straight: Mapping[int, Run], size: int
) -> None:
    names = {}
    for bits in TOLERANCE:
        for mesh in AFTER:
            if math.prod(mesh.values()) == size:
                name = f"{mesh} in {bits} bits"
                shutil.copytree(killed[bits], tmp_path / name)
                names[name] = on(a_spec(bits), mesh), bits
    found = in_world(size, gone_on, str(tmp_path), {name: spec for name, (spec, _) in names.items()})[0]
    for name, (_, bits) in names.items():
        assert found[name].outcome.step == STEPS
        assert_same(found[name], straight[bits], TOLERANCE[bits], name)
