"""A run whose mesh was chosen by measuring goes on with that mesh, although it would measure something else now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from scaling_training.checkpoint.state import POSITION
from scaling_training.parallel import auto
from scaling_training.parallel.costs import Machine
from scaling_training.storage import Storage
from scaling_training.train import World
from tests.unit.scaling_training.train.looped import Run, a_run, assert_bit_for_bit, copied, on, run
from tests.unit.scaling_training.worlds import in_world

SPEC = on(a_run("small-cnn", bits=32), {"auto": True})


def measured(memory: float) -> Any:
    """Another moment, in which a worker has so many bytes to itself."""
    machine = Machine(
        fixed_s=1e-3, sample_s=1e-3, latency_s=1e-5, bytes_per_s=1e9, memory=memory, fsdp_unit_s=1e-4, overlap=0.0
    )
    return patch.object(auto, "measure", lambda *args, **kwargs: machine)


def layout_of(root: str, found: Run | None) -> Any:
    if found is None:
        return None
    position = Storage(root).read(f"{found.outcome.checkpoint.folder}/{POSITION}")
    return json.loads(position)["position"]["layout"]


def interrupted(world: World, root: str) -> dict[str, tuple[Run | None, Any]]:
    """The whole run, the same resumed when memory is short, and from then on what is short of memory at first."""
    found = {}
    with measured(1e9):
        found["straight"] = run(world, SPEC, f"{root}/straight")
        run(world, SPEC, f"{root}/resumed", stop_at=4)
    copied(world, f"{root}/resumed", f"{root}/alone")
    with measured(5e4):
        found["resumed"] = run(world, SPEC, f"{root}/resumed", attempt=2)
        found["short"] = run(world, SPEC, f"{root}/short")
    return {name: (left, layout_of(f"{root}/{name}", left)) for name, left in found.items()}


def test_a_resumed_run_keeps_its_mesh_until_the_number_of_workers_is_another(tmp_path: Path) -> None:
    found: Mapping[str, Any] = in_world(2, interrupted, str(tmp_path))[0]
    (straight, chosen), (resumed, kept), (_, other) = found["straight"], found["resumed"], found["short"]
    assert chosen == {"shape": {"pipeline": 1, "data": 2, "fsdp": 1, "tensor": 1}, "micro_batches": 1}
    assert other != chosen, "memory decides nothing here, so this shows nothing"
    assert kept == chosen
    assert_bit_for_bit(resumed, straight)

    alone: Mapping[str, Any] = in_world(1, went_on_alone, f"{tmp_path}/alone")[0]
    assert alone == {"shape": {"pipeline": 1, "data": 1, "fsdp": 1, "tensor": 1}, "micro_batches": 1}


def went_on_alone(world: World, root: str) -> Any:
    with measured(1e9):
        return layout_of(root, run(world, SPEC, root, attempt=2))
