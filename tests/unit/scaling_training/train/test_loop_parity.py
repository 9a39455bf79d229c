"""A whole run, curves and weights, is the same on every mesh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from scaling_api.spec import ScalingJobSpec
from scaling_training.train import World
from tests.unit.scaling_training.train.looped import Run, a_run, assert_same, on, run, run_alone
from tests.unit.scaling_training.worlds import in_world

RUNS: Mapping[str, tuple[ScalingJobSpec, float]] = {
    "lamb, clipping, averages, smoothing, mixup, batch norm": (
        a_run(
            "small-cnn",
            mixup=0.4,
            optimizer={"name": "lamb", "learningRate": 0.02, "weightDecay": 0.01},
            clipNorm=0.5,
            ema={"decay": 0.8},
            labelSmoothing=0.1,
            parallelism={"batchNorm": "sync"},
        ),
        1e-9,
    ),
    "momentum, accumulation, averages, dropout, schedule": (
        a_run(
            "transformer",
            model={"dropout": 0.1},
            accumulation=2,
            clipNorm=1.0,
            ema={"decay": 0.8},
            schedule={"name": "one-cycle", "warmupFraction": 0.3},
        ),
        1e-9,
    ),
    "32 bits": (
        a_run("small-cnn", bits=32, mixup=0.4, clipNorm=2.0, parallelism={"batchNorm": "sync"}),
        1e-4,
    ),
}
Case = tuple[str, Mapping[str, int]]

TWO: list[Case] = [(name, mesh) for name in RUNS for mesh in ({"data": 2}, {"fsdp": 2}, {"tensor": 2})]
FOUR: list[Case] = [
    (name, mesh)
    for name in list(RUNS)[:2]
    for mesh in ({"data": 2, "fsdp": 2}, {"data": 2, "tensor": 2}, {"fsdp": 2, "tensor": 2})
]
FOUR.append(("32 bits", {"fsdp": 2, "tensor": 2}))


def on_meshes(world: World, cases: Sequence[Case], root: str) -> list[Run | None]:
    """What is left of each run on its mesh."""
    return [run(world, on(RUNS[name][0], mesh), f"{root}/{number}") for number, (name, mesh) in enumerate(cases)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    root = tmp_path_factory.mktemp("alone")
    return {name: run_alone(spec, f"{root}/{name}") for name, (spec, _) in RUNS.items()}


@pytest.mark.parametrize(("size", "cases"), [(2, TWO), (4, FOUR)], ids=["two processes", "four processes"])
def test_a_whole_run_is_that_of_one_process(
    tmp_path: Path, alone: dict[str, Run], size: int, cases: Sequence[Case]
) -> None:
    found: list[Run | None] = in_world(size, on_meshes, cases, str(tmp_path))[0]
    for (name, mesh), theirs in zip(cases, found, strict=True):
        assert theirs is not None
        assert_same(theirs, alone[name], RUNS[name][1], f"{name} on {mesh}")
