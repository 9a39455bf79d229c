"""Optimizers, clipping and averages on sharded parameters are those of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from scaling_api.spec import OptimizerSpec
from scaling_training.optim import build_optimizer
from scaling_training.optim.clip import clip_gradients
from scaling_training.optim.ema import Ema
from scaling_training.optim.tensors import full_norms
from scaling_training.train import World
from tests.unit.scaling_training.worlds import in_world

# Rows that two processes cannot share evenly, one row that leaves one of them with none, a bias, a plain tensor.
SHAPES = [(5, 3), (1, 4), (3,), (2, 2)]
SPECS: list[dict[str, Any]] = [
    {"name": "gradient-descent"},
    {"name": "sgd", "momentum": 0.9, "nesterov": True},
    {"name": "adagrad"},
    {"name": "rmsprop", "momentum": 0.5},
    {"name": "adam"},
    {"name": "adamw"},
    {"name": "lars", "trustCoefficient": 0.1},
    {"name": "lamb"},
    {"name": "lamb", "excludeBiases": False},
]


class Four(nn.Module):
    """Four parameters and a buffer; on several processes the first is sharded on one mesh, the second and third on
    another, and the last is plain."""

    def __init__(self, size: int) -> None:
        super().__init__()
        one = init_device_mesh("cpu", (size,)) if size > 1 else None
        two = init_device_mesh("cpu", (1, size)) if size > 1 else None
        self.layouts: list[Any] = [
            one and (one, [Shard(0)]),
            two and (two, [Replicate(), Shard(0)]),
            two and (two, [Replicate(), Replicate()]),
            None,
        ]
        for index, value in enumerate(values(0)):
            self.register_parameter(f"w{index}", nn.Parameter(self.placed(index, value)))
        self.register_buffer("running", torch.zeros(2, dtype=torch.float64))

    def placed(self, index: int, value: torch.Tensor) -> torch.Tensor:
        layout = self.layouts[index]
        return distribute_tensor(value, *layout) if layout else value

    def set_gradients(self, step: int) -> None:
        for index, (parameter, value) in enumerate(zip(self.parameters(), values(step), strict=True)):
            parameter.grad = self.placed(index, value)

    def whole(self) -> list[list[float]]:
        return [whole(parameter.detach()).flatten().tolist() for parameter in self.parameters()]


def values(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def trained(world: World) -> dict[str, Any]:
    """Weights after six clipped steps of each rule, the norms before clipping, and the averaged weights."""
    found: dict[str, Any] = {}
    for number, fields in enumerate(SPECS):
        model = Four(world.size)
        spec = OptimizerSpec.model_validate({"learningRate": 0.05, "weightDecay": 0.01, **fields})
        optimizer = build_optimizer(spec, model.parameters())
        ema = Ema(model, 0.9)
        norms = []
        for step in range(1, 7):
            model.set_gradients(step)
            norms.append(clip_gradients(model.parameters(), 4.0).item())
            optimizer.step()
            ema.update(step)
        weights = model.whole()
        with ema.swapped():
            averaged = model.whole()
        assert model.whole() == weights
        found[f"{number} {fields['name']}"] = {"weights": weights, "averages": averaged, "norms": norms}
    return found


def test_every_rule_on_mixed_meshes_is_that_of_one_process() -> None:
    expected = trained(World(0, 1, torch.device("cpu")))
    for rank, found in enumerate(in_world(2, trained)):
        for rule, results in expected.items():
            for what, numbers in results.items():
                rows = numbers if what != "norms" else [numbers]
                theirs = found[rule][what] if what != "norms" else [found[rule][what]]
                for row, other in zip(rows, theirs, strict=True):
                    assert other == pytest.approx(row, rel=1e-12, abs=1e-14), f"{rule}, {what}, rank {rank}"


Saved = tuple[dict[str, Any], dict[str, Any]]


def continued(world: World, saved: dict[str, Saved] | None, steps: list[int]) -> dict[str, Saved]:
    """Each rule's weights and state after these steps, as whole tensors; from such a state when one is given.

    By torch's state dicts with one entry for each parameter, as torch.distributed.checkpoint saves and loads them.
    """
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    options = StateDictOptions(flatten_optimizer_state_dict=True)
    found: dict[str, Saved] = {}
    for fields in SPECS:
        model = Four(world.size)
        spec = OptimizerSpec.model_validate({"learningRate": 0.05, "weightDecay": 0.01, **fields})
        optimizer = build_optimizer(spec, model.parameters())
        if saved is not None:
            weights, state = saved[str(fields)]
            with torch.no_grad():
                for index, parameter in enumerate(model.parameters()):
                    parameter.copy_(model.placed(index, weights[f"w{index}"]))
            empty = get_optimizer_state_dict(model, optimizer, options=options)
            assert empty.keys() == state.keys()
            filled = {key: placed_like(state[key], value) for key, value in empty.items()}
            set_optimizer_state_dict(model, optimizer, filled, options=options)
        for step in steps:
            model.set_gradients(step)
            optimizer.step()
        reached: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=options)
        found[str(fields)] = (
            {name: whole(value.detach()) for name, value in model.named_parameters()},
            {key: whole(value) if isinstance(value, torch.Tensor) else value for key, value in reached.items()},
        )
    return found


def placed_like(value: Any, other: Any) -> Any:
    if isinstance(other, DTensor):
        # A copy, because a tensor that came over a pipe is shared by all who got it.
        return distribute_tensor(value.clone(), other.device_mesh, other.placements)
    return value.clone() if isinstance(value, torch.Tensor) else value


def test_a_state_saved_on_one_mesh_goes_on_on_another() -> None:
    alone = World(0, 1, torch.device("cpu"))
    first, straight = continued(alone, None, [1, 2, 3]), continued(alone, None, [1, 2, 3, 4, 5])
    outcomes = [
        in_world(2, continued, first, [4, 5])[0],  # from one process to two
        continued(alone, in_world(2, continued, None, [1, 2, 3])[0], [4, 5]),  # and back
    ]
    for outcome in outcomes:
        for rule, (weights, state) in straight.items():
            assert outcome[rule][1].keys() == state.keys()
            for name, value in weights.items():
                torch.testing.assert_close(outcome[rule][0][name], value, rtol=1e-12, atol=1e-14, msg=f"{rule}, {name}")


def sharded_twice(world: World) -> list[float]:
    mesh = init_device_mesh("cpu", (2, 2))
    layouts: list[list[Any]] = [
        [Shard(0), Shard(1)],
        [Shard(0), Replicate()],
        [Replicate(), Shard(0)],
        [Replicate(), Replicate()],
        [Shard(0), Shard(0)],
    ]
    tensor = torch.arange(15, dtype=torch.float64).reshape(5, 3)
    return full_norms([distribute_tensor(tensor, mesh, layout) for layout in layouts] + [tensor]).tolist()


def test_norms_are_of_the_full_tensor_whatever_the_placements() -> None:
    expected = [torch.arange(15, dtype=torch.float64).norm().item()] * 6
    answers = in_world(4, sharded_twice)
    assert answers[0] == pytest.approx(expected, rel=1e-14)
    assert all(answer == answers[0] for answer in answers), "equal on all processes, bit for bit"


def fsdp_over_tensor_parallel(world: World) -> tuple[list[float], list[float], set[str]]:
    """One LAMB step's weights, divided by tensor parallelism and those parts by FSDP; the norms; the placements."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 5)).double()
    if world.size > 1:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("fsdp", "tensor"))
        parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
        fully_shard(model, mesh=mesh["fsdp"])
    spec = OptimizerSpec.model_validate({"name": "lamb", "learningRate": 0.1, "excludeBiases": False})
    optimizer = build_optimizer(spec, model.parameters())
    model(torch.ones(2, 3, dtype=torch.float64)).square().sum().backward()
    norm = clip_gradients(model.parameters(), 0.5).item()
    optimizer.step()
    parameters = list(model.parameters())
    placements = {str(value.placements) for value in parameters if isinstance(value, DTensor)}
    weights = torch.cat([whole(value.detach()).flatten() for value in parameters])
    return weights.tolist(), [norm, *full_norms(parameters).tolist()], placements


def test_shards_of_shards_are_whole_tensors_to_norms() -> None:
    weights, norms, _ = fsdp_over_tensor_parallel(World(0, 1, torch.device("cpu")))
    for their_weights, their_norms, placements in in_world(4, fsdp_over_tensor_parallel):
        assert any("Strided" in placement or "_S(" in placement for placement in placements), placements
        assert their_norms == pytest.approx(norms, rel=1e-12)
        assert their_weights == pytest.approx(weights, rel=1e-12)


def a_partial_norm(world: World) -> str:
    from torch.distributed.tensor import Partial

    mesh = init_device_mesh("cpu", (2,))
    try:
        full_norms([DTensor.from_local(torch.ones(2), mesh, [Partial()])])
    except ValueError as error:
        return str(error)
    return ""


def test_a_tensor_that_is_not_summed_up_has_no_norm() -> None:
    assert all("summed up" in answer for answer in in_world(2, a_partial_norm))


def fsdp_with_averages(world: World) -> tuple[list[float], list[float], list[float], bool]:
    """Outputs before, with, and after the averages, under FSDP, which keeps gathered weights after a forward."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    inputs = torch.ones(1, 3, dtype=torch.float64)
    if world.size > 1:
        fully_shard(model[0], mesh=init_device_mesh("cpu", (world.size,)))
        fully_shard(model, mesh=init_device_mesh("cpu", (world.size,)))
    optimizer = build_optimizer(OptimizerSpec.model_validate({"name": "lamb", "learningRate": 0.1}), model.parameters())
    ema = Ema(model, 0.5)
    for step in (1, 2, 3):
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()
        ema.update(step)

    def output() -> list[float]:
        with torch.no_grad():
            row: list[float] = model(inputs)[0].tolist()
            return row

    before = output()
    with ema.swapped():
        averaged = output()
    sharded = all(isinstance(value, DTensor) for value in ema.state_dict().values())
    return before, averaged, output(), sharded


def test_averages_under_fsdp_are_used_and_put_back() -> None:
    before, averaged, after, _ = fsdp_with_averages(World(0, 1, torch.device("cpu")))
    assert averaged != pytest.approx(before, rel=1e-3)
    assert after == before
    for answer in in_world(2, fsdp_with_averages):
        for found, expected in zip(answer[:3], (before, averaged, after), strict=True):
            assert found == pytest.approx(expected, rel=1e-12)
        assert answer[3], "the averages are sharded like the weights"
