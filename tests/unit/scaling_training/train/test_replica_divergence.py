"""A process whose weights went another way ends the run, and nothing of it is saved."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from scaling_training.parallel.consistency import ReplicasDifferError
from scaling_training.storage import Storage
from scaling_training.train import World, loop
from scaling_training.train.step import train_step
from tests.unit.scaling_training.train.looped import a_run, run
from tests.unit.scaling_training.worlds import in_world

WHEN: dict[str, tuple[dict[str, Any], int | None]] = {
    "at the epoch's end": ({"checkpoint": {"everyEpochs": 1}}, None),
    "at a save within the epoch": ({"checkpoint": {"everySteps": 5}}, None),
    "at a stop": ({}, 5),
}
DISTURBED = 5  # the step, from 1, after which one process is not what it should be


def disturbed(world: World, root: str) -> dict[str, str]:
    """What each run says that is disturbed in step 5, the second of the second epoch, on rank 1."""

    def step_and_disturb(setup: Any, *arguments: Any, step: int, **more: Any) -> Any:
        result = train_step(setup, *arguments, step=step, **more)
        if world.rank == 1 and step == DISTURBED - 1:
            with torch.no_grad():
                dict(setup.replica.model.named_parameters())["13.weight"][0, 0] += 1e-3
        return result

    write = Storage.write

    def write_slowly(self: Storage, name: str, data: bytes) -> None:
        time.sleep(0.5 if name.endswith("MANIFEST.json") else 0.0)
        write(self, name, data)

    said = {}
    for name, (training, stop_at) in WHEN.items():
        with patch.object(loop, "train_step", step_and_disturb), patch.object(Storage, "write", write_slowly):
            try:
                run(world, a_run("small-cnn", **training), f"{root}/{name}", stop_at=stop_at)
                said[name] = "nothing"
            except ReplicasDifferError as error:
                # The first process that ends takes the others along, and with them what they still save.
                assert list(Path(root, name).glob("checkpoints/*/step-00000003/MANIFEST.json")), name
                said[name] = str(error)
    return said


def test_a_replica_that_diverges_is_named_with_its_tensor_and_never_saved(tmp_path: Path) -> None:
    for said in in_world(2, disturbed, str(tmp_path)):
        for name, sentence in said.items():
            assert "the weights of 13.weight differ on rank 1 from its peers 0" in sentence, name
    for name in WHEN:
        folders = {path.parent.name for path in (tmp_path / name).glob("checkpoints/*/*/MANIFEST.json")}
        assert folders == {"step-00000003"}, f"{name}: the first epoch's, which was good"
