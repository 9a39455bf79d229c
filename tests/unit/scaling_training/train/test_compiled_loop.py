"""A compiled model trains, validates and is saved as the plain one.

What a backend makes of the graph is not looked at here: they are run as they were captured.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from scaling_training.train import World
from tests.unit.scaling_training.train.looped import Run, a_run, assert_bit_for_bit, on, run, run_alone
from tests.unit.scaling_training.worlds import in_world

MESHES = ({"data": 2}, {"fsdp": 2})
FIELDS: Mapping[str, Any] = {
    "mixup": 0.4,
    "ema": {"decay": 0.8},
    "accumulation": 2,
    "model": {"freeze": [{"layers": "0", "untilEpoch": 1}]},
}
PLAIN, COMPILED = (a_run("small-cnn", compile=compiled, **FIELDS) for compiled in (False, True))


def captured_only() -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()
    patch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    return patch


def both(world: World, root: str) -> dict[str, tuple[Run | None, Run | None]]:
    captured_only()
    return {
        str(mesh): (
            run(world, on(PLAIN, mesh), f"{root}/plain-{mesh}"),
            run(world, on(COMPILED, mesh), f"{root}/compiled-{mesh}"),
        )
        for mesh in MESHES
    }


def test_two_processes_train_a_compiled_model_as_the_plain_one(tmp_path: Path) -> None:
    found: Mapping[str, Any] = in_world(2, both, str(tmp_path))[0]
    for mesh, (plain, compiled) in found.items():
        assert_bit_for_bit(compiled, plain, mesh)


def test_a_compiled_model_resumes_as_the_plain_one(tmp_path: Path) -> None:
    patch = captured_only()
    try:
        run_alone(COMPILED, f"{tmp_path}/compiled", stop_at=2)
        resumed = run_alone(COMPILED, f"{tmp_path}/compiled", attempt=2)
    finally:
        patch.undo()
    assert_bit_for_bit(resumed, run_alone(PLAIN, f"{tmp_path}/plain"))
