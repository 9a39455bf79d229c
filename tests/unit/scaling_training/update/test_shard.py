"""The parameter server's arithmetic: one worker is plain SGD, shards are cut where they may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scaling_api.optim import OptimizerSpec
from scaling_training.optim import build_optimizer
from scaling_training.update.coordinator import Coordinator
from scaling_training.update.layout import PartView, adopt, divide, shard_states
from scaling_training.update.messages import Commit, Group
from scaling_training.update.samples import Lease, Worker
from scaling_training.update.shard import ParameterShard
from tests.unit.scaling_training.update.virtual import Pulled, Simulation

SAMPLES, EPOCHS, BATCH = 26, 2, 8
GENERATOR = torch.Generator().manual_seed(5)
INPUTS = torch.randn(SAMPLES, 6, dtype=torch.float64, generator=GENERATOR)
TARGETS = torch.randn(SAMPLES, 3, dtype=torch.float64, generator=GENERATOR)
ADAM = {"name": "adam", "learningRate": 0.01}
MOMENTUM = {"name": "sgd", "learningRate": 0.05, "momentum": 0.9}


def a_model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()


def falling(samples: int) -> float:
    return 0.02 / (1 + samples / SAMPLES)


def loss_sum(model: nn.Module, start: int, end: int) -> torch.Tensor:
    rows = torch.arange(start, end) % SAMPLES
    value: torch.Tensor = (model(INPUTS[rows]) - TARGETS[rows]).square().sum()
    return value


def a_server(
    optimizer: dict[str, Any], shards: int, rate: Callable[[int], float] = falling
) -> tuple[Simulation, list[ParameterShard], nn.Module]:
    """A server that starts from `a_model`, and a model that its workers share by turns."""
    spec = OptimizerSpec.model_validate(optimizer)
    model = a_model()
    states = shard_states(model, build_optimizer(spec, model.parameters()), divide(model, shards), position=0)
    made = [ParameterShard(spec) for _ in states]
    for shard, state in zip(made, states, strict=True):
        shard.load(state)
    views = [PartView(model, state.part) for state in states]

    def compute(lease: Lease, pulled: Pulled) -> tuple[Sequence[Any], float]:
        for view, (parameters, buffers) in zip(views, pulled, strict=True):
            view.load(parameters, buffers)
        model.zero_grad()
        total = loss_sum(model, lease.stretch.start, lease.stretch.end)
        (total / len(lease.stretch)).backward()  # type: ignore[no-untyped-call]
        return [(view.gradients(), view.buffer_values()) for view in views], float(total.item())

    coordinator = Coordinator(made, lambda epoch, samples, rows: rate(samples))
    return Simulation(coordinator, made, compute), made, model


def plain(optimizer_spec: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A loop over the same batches, without any server."""
    model = a_model()
    optimizer = build_optimizer(OptimizerSpec.model_validate(optimizer_spec), model.parameters())
    cursor = 0
    while cursor < SAMPLES * EPOCHS:
        end = min(cursor + BATCH, (cursor // SAMPLES + 1) * SAMPLES)
        for group in optimizer.param_groups:
            group["lr"] = falling(cursor)
        optimizer.zero_grad()
        (loss_sum(model, cursor, end) / (end - cursor)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        cursor = end
    return model.state_dict()


def a_group(workers: int, *, share: int, batch: int) -> Group:
    return Group(workers=workers, samples=SAMPLES, epochs=EPOCHS, share=share, batch=batch, bound=4, scaling=None)


def one_worker() -> Group:
    return a_group(1, share=BATCH, batch=BATCH)


@pytest.mark.parametrize("shards", [1, 3, 9])
@pytest.mark.parametrize("optimizer", [ADAM, MOMENTUM], ids=["adam", "momentum"])
def test_one_worker_is_plain_training_bit_for_bit(optimizer: dict[str, Any], shards: int) -> None:
    simulation, made, model = a_server(optimizer, shards)
    simulation.start([1], one_worker())
    assert simulation.run()
    adopt([shard.state() for shard in made], model)
    for name, value in plain(optimizer).items():
        if value.is_floating_point():
            assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize("workers", [2, 3])
def test_shares_of_a_batch_on_equal_weights_add_up_to_the_step_of_the_whole_batch(workers: int) -> None:
    def trained(count: int) -> dict[str, torch.Tensor]:
        sgd = {"name": "sgd", "learningRate": 1.0}
        simulation, made, model = a_server(sgd, 2, rate=lambda samples: 0.02)
        model.eval()  # batch norm would look at each share by itself
        group = a_group(count, share=-(-SAMPLES // count), batch=SAMPLES)
        # All pull before the first pushes.
        simulation.start([3] * count, group)
        simulation.run(4)
        assert len(simulation.pushes) == count
        adopt([shard.state() for shard in made], model)
        return {name: value.detach().clone() for name, value in model.named_parameters()}

    shared = trained(workers)
    for name, value in trained(1).items():
        torch.testing.assert_close(shared[name], value, rtol=1e-12, atol=1e-15, msg=name)


@pytest.mark.parametrize("at", [3, 8, 13])
def test_a_snapshot_of_ledger_and_shards_goes_on_bit_for_bit_also_with_another_number_of_shards(at: int) -> None:
    simulation, made, model = a_server(ADAM, 2)
    simulation.start([1], one_worker())
    assert not simulation.run(at)
    snapshot = simulation.coordinator.snapshot()
    assert simulation.run()

    resumed, others, _ = a_server(ADAM, 3)
    optimizer = build_optimizer(OptimizerSpec.model_validate(ADAM), model.parameters())
    adopt(snapshot.shards, model, optimizer)
    states = shard_states(model, optimizer, divide(model, 3), position=snapshot.ledger["version"])
    for shard, state in zip(others, states, strict=True):
        shard.load(state)
    resumed.coordinator.open(one_worker(), snapshot.ledger, [])
    resumed.start([1], one_worker())
    assert resumed.run()

    def whole(shards: Sequence[ParameterShard]) -> np.ndarray[Any, Any]:
        return np.concatenate([values for shard in shards for values in shard.pull()[:1]])

    np.testing.assert_array_equal(whole(others), whole(made))


def test_what_a_shard_starts_from_is_held_by_nobody_else() -> None:
    model = a_model()
    optimizer = build_optimizer(OptimizerSpec.model_validate(MOMENTUM), model.parameters())
    torch.autograd.backward(loss_sum(model, 0, BATCH))
    optimizer.step()
    for kept in optimizer.state.values():
        kept["momentum_buffer"] = torch.nn.Parameter(kept["momentum_buffer"])
    (state,) = shard_states(model, optimizer, divide(model, 1), position=1)
    before = {name: kept["momentum_buffer"].clone() for name, kept in state.optimizer.items()}
    with torch.no_grad():
        for kept in optimizer.state.values():
            kept["momentum_buffer"].zero_()
    assert before.keys() == dict(model.named_parameters()).keys()
    for name, value in before.items():
        held = state.optimizer[name]["momentum_buffer"]
        assert torch.equal(held, value), "a copy"
        assert held.device.type == "cpu"
        assert not held.requires_grad
        assert value.any()


def test_shards_cut_between_tensors_and_are_about_equal() -> None:
    model = nn.Sequential(*(nn.Linear(10, 10) for _ in range(6)))
    parts = divide(model, 3)
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    assert [sum(sizes[name] for name in part.parameters) for part in parts] == [220, 220, 220]
    assert [name for part in parts for name in part.parameters] == list(sizes)
    assert [len(part.parameters) for part in divide(nn.Linear(3, 3), 5)].count(0) == 3, "whole tensors only"
    model[0].requires_grad_(False)
    assert sum(sizes[name] for part in divide(model, 2) for name in part.parameters) == 550


def test_buffers_go_a_workers_share_of_the_way() -> None:
    model = nn.BatchNorm1d(2)
    spec = OptimizerSpec.model_validate(ADAM)
    (state,) = shard_states(model, build_optimizer(spec, model.parameters()), divide(model, 1), position=0)
    shard = ParameterShard(spec)
    shard.load(state)
    worker = Worker(0, 1)
    observed = np.array([4.0, 8.0, 1.0, 1.0], dtype=np.float32)  # running mean, running variance
    shard.stage(worker, 7, np.zeros(4, dtype=np.float32), observed)
    shard.commit(Commit(worker, 7, 0, 0.1, 0.25))
    np.testing.assert_allclose(shard.pull()[1], [1.0, 2.0, 1.0, 1.0])
    assert shard.position == 1
