"""Checkpoints that several processes write together and that others, fewer or more, read."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scaling_training.checkpoint import CheckpointRef, Checkpoints
from scaling_training.checkpoint.state import Position, Trained
from scaling_training.checkpoint.weights import weights_file
from scaling_training.errors import UserError
from scaling_training.evaluate.classification import ACCURACY
from scaling_training.storage import Storage
from scaling_training.train import World
from scaling_training.train.saving import Keeper
from scaling_training.train.start import Start
from tests.unit.scaling_training.worlds import in_world

Values = dict[str, np.ndarray[Any, Any]]


class Average:
    """Averaged weights as a real one keeps them: DTensors where the parameters are, and a number."""

    def __init__(self, model: nn.Module) -> None:
        self.updates = 0
        self.shadow = {name: value.detach().clone() for name, value in model.named_parameters()}

    def update(self, model: nn.Module) -> None:
        self.updates += 1
        for name, value in model.named_parameters():
            self.shadow[name].lerp_(value.detach(), 0.3)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, value in state["shadow"].items():
            self.shadow[name].copy_(value)


def built(world: World, mesh: tuple[str, ...], sizes: tuple[int, ...], optimizer: str) -> Trained:
    """A model with a bias of 5 numbers, which 2 and 4 do not divide, batch norm's buffers, and a frozen layer."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    torch.manual_seed(world.rank * 0 + 1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    model[4].requires_grad_(False)
    if mesh:
        device_mesh = init_device_mesh("cpu", sizes, mesh_dim_names=mesh)
        if "tensor" in mesh:
            parallelize_module(model, device_mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        if "fsdp" in mesh:
            over = device_mesh["data", "fsdp"] if "data" in mesh else device_mesh["fsdp"]
            for layer in (model[0], model[2], model):
                fully_shard(layer, mesh=over)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    makers: dict[str, Any] = {"adam": torch.optim.AdamW, "momentum": torch.optim.SGD}
    settings = {"momentum": {"momentum": 0.9}, "adam": {}}[optimizer]
    # Not foreach: tensors of several meshes are not mixed in one call.
    return Trained(model, makers[optimizer](parameters, lr=0.1, foreach=False, **settings), Average(model))


def train_a_little(trained: Trained, world: World, steps: int = 3) -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        trained.optimizer.zero_grad()
        trained.model(torch.randn(16, 6, generator=generator)).square().mean().backward()
        trained.optimizer.step()
        assert isinstance(trained.ema, Average)
        trained.ema.update(trained.model)


def whole(trained: Trained) -> Values:
    """Every tensor as a whole, on every rank."""
    from torch.distributed.tensor import DTensor

    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone().numpy()
        for name, tensor in sorted(trained.tensors().items())
    }


def keeper(trained: Trained, world: World, root: str) -> Keeper:
    checkpoints = Checkpoints(Storage(root), attempt=1, key="key")
    return Keeper(trained, world=world, checkpoints=checkpoints, objective=ACCURACY)


def restored(trained: Trained, world: World, root: str) -> Position:
    """As the next attempt does it."""
    checkpoints = Checkpoints(Storage(root), attempt=2, key="key")
    kept = Keeper(trained, world=world, checkpoints=checkpoints, objective=ACCURACY)
    return kept.restore(Start(checkpoints, world=world, resume=None))


Mesh = tuple[tuple[str, ...], tuple[int, ...]]


def saving(world: World, root: str, mesh: Mesh, optimizer: str) -> Values:
    trained = built(world, *mesh, optimizer)
    kept = keeper(trained, world, root)
    train_a_little(trained, world)
    before = whole(trained)
    kept.save(Position(cursor=48, step=3), epoch=1, metrics={"accuracy": 0.5, "loss": 1.0})
    # What comes after the copy is not in the checkpoint.
    train_a_little(trained, world, 1)
    kept.wait()
    assert (kept.latest is not None) == world.is_first
    return before


def loading(world: World, root: str, mesh: Mesh, optimizer: str) -> tuple[Position, Values, int]:
    trained = built(world, *mesh, optimizer)
    position = restored(trained, world, root)
    assert isinstance(trained.ema, Average)
    return position, whole(trained), trained.ema.updates


ONE: Mesh = ((), ())
DATA_FSDP: Mesh = (("data", "fsdp"), (2, 2))
FSDP_TENSOR: Mesh = (("fsdp", "tensor"), (2, 2))
FSDP: Mesh = (("fsdp",), (4,))


@pytest.mark.parametrize(
    ("saved_on", "loaded_on", "optimizer"),
    [
        pytest.param(DATA_FSDP, (ONE, FSDP), "adam", id="data x fsdp on one and on fsdp of 4"),
        pytest.param(FSDP_TENSOR, (ONE, DATA_FSDP), "momentum", id="fsdp x tensor on one and on data x fsdp"),
        pytest.param(ONE, (FSDP_TENSOR,), "adam", id="one on fsdp x tensor"),
    ],
)
def test_what_was_saved_on_one_mesh_is_loaded_on_others_bit_for_bit(
    tmp_path: Path, saved_on: Mesh, loaded_on: tuple[Mesh, ...], optimizer: str
) -> None:
    def size(mesh: Mesh) -> int:
        return int(np.prod(mesh[1])) if mesh[1] else 1

    saved = in_world(size(saved_on), saving, str(tmp_path), saved_on, optimizer)[0]
    assert {name.partition("/")[0] for name in saved} == {"model", "optimizer", "ema"}
    for mesh in loaded_on:
        for position, values, updates in in_world(size(mesh), loading, str(tmp_path), mesh, optimizer):
            assert (position, updates) == (Position(48, 3, best_metrics={"accuracy": 0.5, "loss": 1.0}), 3)
            assert values.keys() == saved.keys()
            for name, value in saved.items():
                np.testing.assert_array_equal(values[name], value, err_msg=name)

    from safetensors.numpy import load

    # Without a process group.
    ref = CheckpointRef("checkpoints/attempt-0001/step-00000003", 1, 3)
    weights = load(weights_file(Storage(str(tmp_path)), ref))
    assert weights.keys() == {name.removeprefix("model/") for name in saved if name.startswith("model/")}
    for name, value in weights.items():
        np.testing.assert_array_equal(value, saved[f"model/{name}"], err_msg=name)


def test_replicated_tensors_are_written_once_and_every_shard_counts(tmp_path: Path) -> None:
    in_world(4, saving, str(tmp_path), DATA_FSDP, "adam")
    folder = tmp_path / "checkpoints/attempt-0001/step-00000003"
    # The other row of the mesh holds the same shards.
    assert sorted(path.name for path in folder.glob("model-*")) == [
        "model-0000.safetensors",
        "model-0001.safetensors",
    ]
    for file in sorted(folder.glob("*.*")):
        if file.name == "MANIFEST.json":
            continue
        content = file.read_bytes()
        flipped = content[:-1] + bytes([content[-1] ^ 1]) if content else b"x"
        for damaged in (content[:-1] or b"xx", flipped, None):
            if damaged is None:
                file.unlink()
            else:
                file.write_bytes(damaged)
            with pytest.raises(UserError, match="is damaged, and so are those before it"):
                Checkpoints(Storage(str(tmp_path)), attempt=1, key="key").load_latest()
            file.write_bytes(content)
    assert Checkpoints(Storage(str(tmp_path)), attempt=1, key="key").load_latest() is not None


def stage_of(world: World) -> Trained:
    """A pipeline of two stages: each process holds one layer, under its name in the whole model."""
    torch.manual_seed(1)
    layers = {"0": nn.Linear(4, 4), "1": nn.Linear(4, 2)}
    mine = layers if world.size == 1 else {str(world.rank): layers[str(world.rank)]}
    model = nn.ModuleDict(mine)
    return Trained(model, torch.optim.Adam(model.parameters()), is_part=world.size > 1)


def saving_stages(world: World, root: str) -> Values:
    trained = stage_of(world)
    for parameter in trained.model.parameters():
        parameter.grad = torch.full_like(parameter, world.rank + 1.0)
    trained.optimizer.step()
    kept = keeper(trained, world, root)
    kept.save(Position(step=1), epoch=0, metrics=None)
    kept.wait()
    return whole(trained)


def loading_stages(world: World, root: str) -> Values:
    trained = stage_of(world)
    assert restored(trained, world, root).step == 1
    return whole(trained)


def test_the_stages_of_a_pipeline_save_what_they_hold(tmp_path: Path) -> None:
    first, second = in_world(2, saving_stages, str(tmp_path))
    assert first.keys() & second.keys() == set()
    [together] = in_world(1, loading_stages, str(tmp_path))
    again = in_world(2, loading_stages, str(tmp_path))
    assert together.keys() == first.keys() | second.keys()
    for loaded, saved in ((together, first), (together, second), (again[0], first), (again[1], second)):
        for name, value in saved.items():
            np.testing.assert_array_equal(loaded[name], value, err_msg=name)


def failing(world: World, root: str, dies: bool) -> list[str]:
    """The second rank cannot write its part of the second checkpoint, or is killed when it begins to."""
    trained = built(world, *FSDP, "adam")
    kept = keeper(trained, world, root)
    train_a_little(trained, world)
    kept.save(Position(step=3), epoch=0, metrics=None)
    kept.wait()
    if world.rank == 1:
        Storage.write = _killed if dies else _full  # type: ignore[method-assign]
    kept.save(Position(step=4), epoch=0, metrics=None)
    said = []
    for _ in range(2):
        try:
            kept.wait()
            said.append("fine")
        except OSError as error:
            said.append(str(error))
    return said


def _full(self: Storage, name: str, data: bytes | bytearray) -> None:
    raise OSError("no room")


def _killed(self: Storage, name: str, data: bytes | bytearray) -> None:
    signal.raise_signal(signal.SIGKILL)


def test_a_rank_that_cannot_write_is_an_error_on_every_rank_and_nothing_is_committed(tmp_path: Path) -> None:
    assert in_world(4, failing, str(tmp_path), False) == [["no room", "fine"]] * 4
    latest = Checkpoints(Storage(str(tmp_path)), attempt=1, key="key").load_latest()
    assert latest is not None
    assert latest.ref.step == 3


def test_a_rank_that_is_killed_while_it_writes_leaves_nothing_committed(tmp_path: Path) -> None:
    with pytest.raises((AssertionError, EOFError)):
        in_world(4, failing, str(tmp_path), True)
    latest = Checkpoints(Storage(str(tmp_path)), attempt=1, key="key").load_latest()
    assert latest is not None
    assert latest.ref.step == 3


def test_another_models_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    class Fits(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = nn.Linear(width, 2)

    root, world = str(tmp_path), World(0, 1, torch.device("cpu"))
    small, large = Fits(3), Fits(4)
    kept = keeper(Trained(small, torch.optim.SGD(small.parameters())), world, root)
    kept.save(Position(step=1), epoch=0, metrics=None)
    kept.wait()
    with pytest.raises(UserError, match=r"layer.weight has shape \[2, 3\] there and \[2, 4\] here"):
        restored(Trained(large, torch.optim.SGD(large.parameters())), world, root)
