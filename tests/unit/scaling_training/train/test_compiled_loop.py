"""A compiled model trains, validates and is saved as the plain one.

What a backend makes of the graph is not looked at here: they are run as they were captured.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partialmethod
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import nn

from scaling_training.train import World
from scaling_training.world.heartbeat import Phase
from tests.unit.scaling_training.train.looped import Run, a_run, assert_bit_for_bit, on, run
from tests.unit.scaling_training.worlds import in_world

MESHES = ({"data": 2}, {"fsdp": 2})
# All batches have one size: each other one would be captured anew.
FIELDS: Mapping[str, Any] = {"batchSize": 24, "ema": {"decay": 0.8}, "checkpoint": {"everyEpochs": 2}}
MODEL = {"freeze": [{"layers": "0", "untilEpoch": 1}]}
RAGGED = a_run("small-cnn", model=MODEL, compile=True)  # batches of 25, 25 and 22
PLAIN, COMPILED = (a_run("small-cnn", model=MODEL, compile=compiled, **FIELDS) for compiled in (False, True))


def both(world: World, root: str) -> dict[str, tuple[Run | None, Run | None]]:
    """By mesh, the plain run, and the compiled one, which is stopped and resumed on the way."""
    found = {}
    with patch.object(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager")):
        for mesh in MESHES:
            folder = f"{root}/compiled-{mesh}"
            run(world, on(COMPILED, mesh), folder, stop_at=2)
            resumed = run(world, on(COMPILED, mesh), folder, attempt=2)
            found[str(mesh)] = (run(world, on(PLAIN, mesh), f"{root}/plain-{mesh}"), resumed)
    return found


def test_two_processes_train_and_resume_a_compiled_model_as_the_plain_one(tmp_path: Path) -> None:
    found: Mapping[str, Any] = in_world(2, both, str(tmp_path))[0]
    for mesh, (plain, compiled) in found.items():
        assert_bit_for_bit(compiled, plain, mesh)


def phases_of(world: World, root: str) -> list[tuple[Phase, int]]:
    """What a compiled run of two epochs tells the watchdog, the phases of compute only."""
    told: list[tuple[Phase, int]] = []

    def beat(phase: Phase, step: int, *, expected_s: float = 0.0) -> None:
        if phase in (Phase.COMPILE, Phase.STEP):
            told.append((phase, step))

    with patch.object(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager")):
        run(world, RAGGED, root, beat=beat)
    return told


def test_the_watchdog_is_told_whenever_the_compiler_may_be_at_work(tmp_path: Path) -> None:
    (told,) = in_world(1, phases_of, str(tmp_path))
    compiling = [step for phase, step in told if phase is Phase.COMPILE]
    last = max(step for _, step in told)
    # The first step, the first epoch's smaller last batch, and the first step after a layer has thawed.
    assert compiling == [0, last // 2, last // 2 + 1, last]
    assert [step for _, step in told] == list(range(last + 1))
