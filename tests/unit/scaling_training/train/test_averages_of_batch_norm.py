"""Averaged weights with batch norm that is local to a process: its averaged statistics are the first process's.

They are validated, saved and resumed from as those of one model, whatever each process gathered on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from scaling_training.train import World
from tests.unit.scaling_training.measured import measured_alone
from tests.unit.scaling_training.train.looped import Run, a_run, assert_bit_for_bit, on, run
from tests.unit.scaling_training.worlds import in_world

SPEC = a_run("small-cnn", ema={"decay": 0.8}, epochs=3)
MESHES = ({"data": 2}, {"fsdp": 2})


def on_meshes(world: World, root: str) -> dict[str, tuple[Run | None, Run | None]]:
    found = {}
    for mesh in MESHES:
        spec = on(SPEC, mesh)
        straight = run(world, spec, f"{root}/{mesh}")
        run(world, spec, f"{root}/{mesh}-resumed", stop_at=4)
        found[str(mesh)] = (straight, run(world, spec, f"{root}/{mesh}-resumed", attempt=2))
    return found


def test_the_metrics_are_those_of_the_averages_that_are_kept(tmp_path: Path) -> None:
    found: Mapping[str, Any] = in_world(2, on_meshes, str(tmp_path))[0]
    for mesh, (straight, resumed) in found.items():
        assert_bit_for_bit(resumed, straight, mesh)
        kept = measured_alone(SPEC, tmp_path / str(mesh), straight.outcome.checkpoint)["validation"]
        last = {name: straight.rows[-1][f"val{name[0].upper()}{name[1:]}"] for name in kept.scalars()}
        assert last == pytest.approx(kept.scalars(), rel=1e-9), mesh
