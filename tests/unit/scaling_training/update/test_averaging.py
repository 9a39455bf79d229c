"""Local steps and averages, on small models in float64."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from scaling_api.optim import OptimizerSpec
from scaling_api.update import UpdateSpec
from scaling_training.data.order import rank_slice
from scaling_training.optim import build_optimizer
from scaling_training.train import World
from scaling_training.update.averaging import Averager, ends_round
from tests.unit.scaling_training.worlds import in_world

STEPS = 20
SGD = {"name": "sgd", "learningRate": 0.1}
DILOCO = {"mode": "local", "steps": 4, "outer": {"rate": 0.7, "momentum": 0.9, "nesterov": True}}


def a_model(*, norm: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layers = [nn.Linear(6, 5), *([nn.BatchNorm1d(5)] if norm else []), nn.Tanh(), nn.Linear(5, 3)]
        return nn.Sequential(*layers).double()


def a_batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """13 samples, or 7: neither divides by 2 or 3."""
    generator = torch.Generator().manual_seed(step)
    size = 7 if step % 5 == 4 else 13
    return (
        torch.randn(size, 6, dtype=torch.float64, generator=generator),
        torch.randn(size, 3, dtype=torch.float64, generator=generator),
    )


def backward(replica: nn.Module, world: World, step: int) -> float:
    """As the loop does: this rank's sum of losses, scaled so that the mean over ranks is the global mean."""
    inputs, targets = a_batch(step)
    mine = rank_slice(len(inputs), world.rank, world.size)
    loss_sum = (replica(inputs[mine]) - targets[mine]).square().sum()
    (loss_sum * (world.size / len(inputs))).backward()
    return float(loss_sum.item())


def values(model: nn.Module) -> dict[str, Any]:
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}


def sync(world: World, optimizer_spec: dict[str, Any]) -> list[dict[str, Any]]:
    model = a_model()
    optimizer = build_optimizer(OptimizerSpec.model_validate(optimizer_spec), model.parameters())
    replica = DistributedDataParallel(model) if world.size > 1 else model
    states = []
    for step in range(STEPS):
        optimizer.zero_grad()
        backward(replica, world, step)
        optimizer.step()
        states.append(values(model))
    return states


def local(
    world: World,
    optimizer_spec: dict[str, Any],
    update: dict[str, Any],
    *,
    norm: bool = False,
    steps: range = range(STEPS),
    saved: bytes | None = None,
) -> tuple[list[dict[str, Any]], bytes]:
    """Weights after each round, and what a checkpoint of rank 0 holds at the end."""
    model = a_model(norm=norm)
    spec = UpdateSpec.model_validate(update)
    optimizer = build_optimizer(OptimizerSpec.model_validate(optimizer_spec), model.parameters())
    averager = Averager(model, optimizer, spec, processes=world.size)
    if saved is not None:
        state = torch.load(io.BytesIO(saved), weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        averager.load_state_dict(state["update"])
    rounds = []
    assert spec.steps is not None
    for step in steps:
        optimizer.zero_grad()
        backward(model, world, step)
        optimizer.step()
        if ends_round(step % 10, every=spec.steps, ends_epoch=step % 10 == 9):
            averager.average()
            rounds.append(values(model))
    buffer = io.BytesIO()
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "update": averager.state_dict()}, buffer
    )
    return rounds, buffer.getvalue()


@pytest.mark.parametrize("optimizer", [SGD, {**SGD, "momentum": 0.9, "weightDecay": 0.01}], ids=["sgd", "momentum"])
@pytest.mark.parametrize("size", [2, 3])
def test_rounds_of_one_step_are_the_steps_of_sync(size: int, optimizer: dict[str, Any]) -> None:
    expected = in_world(1, sync, optimizer)[0]
    everywhere = in_world(size, sync, optimizer)[0]
    for rank, (rounds, _) in enumerate(in_world(size, local, optimizer, {"mode": "local", "steps": 1})):
        assert len(rounds) == STEPS
        for step in range(STEPS):
            for name, value in expected[step].items():
                message = f"rank {rank}, step {step}, {name}"
                np.testing.assert_allclose(rounds[step][name], value, rtol=1e-9, err_msg=message)
                np.testing.assert_allclose(rounds[step][name], everywhere[step][name], rtol=1e-9, err_msg=message)


def test_longer_rounds_are_another_path_and_end_equal_everywhere() -> None:
    adam = {"name": "adam", "learningRate": 0.01}
    results = in_world(3, local_with_norm, adam, {"mode": "local", "steps": 4})
    first, state = results[0]
    # After steps 4, 8 and 10 of each epoch of ten.
    assert len(first) == 6
    for rounds, their_state in results[1:]:
        for ours, theirs in zip(first, rounds, strict=True):
            for name, value in ours.items():
                np.testing.assert_array_equal(theirs[name], value, err_msg=name)
        ours, theirs = (torch.load(io.BytesIO(data), weights_only=True)["optimizer"] for data in (state, their_state))
        for index, kept in ours["state"].items():
            for key, value in kept.items():
                assert torch.equal(theirs["state"][index][key], value), (index, key)
    step_by_step, _ = in_world(3, local_with_norm, adam, {"mode": "local", "steps": 1})[0]
    assert not np.allclose(step_by_step[-1]["0.weight"], first[-1]["0.weight"], rtol=1e-6)


def local_with_norm(world: World, optimizer: dict[str, Any], update: dict[str, Any]) -> Any:
    return local(world, optimizer, update, norm=True)


def resumed(world: World, optimizer: dict[str, Any], update: dict[str, Any]) -> Any:
    straight, state = local(world, optimizer, update, norm=True)
    _, saved = local(world, optimizer, update, norm=True, steps=range(8))
    # All ranks go on from rank 0's checkpoint.
    files: list[Any] = [saved]
    torch.distributed.broadcast_object_list(files, src=0)
    later, later_state = local(world, optimizer, update, norm=True, steps=range(8, STEPS), saved=files[0])
    return straight[2:], later, state == later_state


@pytest.mark.parametrize("update", [DILOCO, {"mode": "local", "steps": 4}], ids=["outer momentum", "plain averaging"])
def test_resumed_at_the_end_of_a_round_from_rank_0s_state_it_is_the_straight_run_bit_for_bit(
    update: dict[str, Any],
) -> None:
    for straight, later, same_state in in_world(2, resumed, {"name": "adam", "learningRate": 0.01}, update):
        assert len(straight) == len(later) == 4
        for expected, found in zip(straight, later, strict=True):
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert same_state


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_outer_optimizer_is_the_formula(nesterov: bool) -> None:
    outer = {"rate": 0.7, "momentum": 0.9, "nesterov": nesterov}
    spec = UpdateSpec.model_validate({"mode": "local", "steps": 1, "outer": outer})
    weight = nn.Linear(1, 1, bias=False).double()
    averager = Averager(weight, torch.optim.SGD(weight.parameters(), lr=1.0), spec, processes=1)
    theta, velocity = weight.weight.item(), 0.0
    for moved in (0.5, -0.25, 1.0):
        with torch.no_grad():
            weight.weight += moved
        averager.average()
        delta = -moved
        velocity = 0.9 * velocity + delta
        theta -= 0.7 * (delta + 0.9 * velocity if nesterov else velocity)
        assert weight.weight.item() == pytest.approx(theta, rel=1e-12)


@pytest.mark.parametrize(
    ("step", "ends_epoch", "expected"),
    [(0, False, False), (2, False, False), (3, False, True), (4, False, False), (4, True, True), (7, False, True)],
)
def test_a_round_ends_with_its_steps_and_with_the_epoch(step: int, ends_epoch: bool, expected: bool) -> None:
    assert ends_round(step, every=4, ends_epoch=ends_epoch) is expected
