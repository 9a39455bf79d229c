"""Micro-batches and ranks without samples of their own leave no trace: gradients and statistics are as without them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scaling_training.data.batches import Batch
from scaling_training.data.order import GlobalBatch, rank_slice, shares
from scaling_training.models.task import ClassificationTask
from scaling_training.parallel.replica import Replica
from scaling_training.train import World
from scaling_training.train.setup import Setup, set_up
from scaling_training.train.step import train_step
from tests.unit.scaling_training.builders import a_batch, a_spec
from tests.unit.scaling_training.worlds import in_world

ALONE = World(0, 1, torch.device("cpu"))
# Samples of a step, processes, micro-batches of each.
UNEVEN = [
    pytest.param(3, 1, 64, id="more micro-batches than samples"),
    pytest.param(5, 1, 3, id="micro-batches of two sizes"),
    pytest.param(5, 2, 3, id="a rank with a sample less than micro-batches"),
    pytest.param(2, 2, 4, id="micro-batches for which no rank has a sample"),
    pytest.param(1, 2, 1, id="a rank without a sample"),
    pytest.param(4, 3, 2, id="three ranks, one of them with two samples"),
]


def the_spec(pieces: int, batch_norm: str) -> Any:
    # The small CNN has batch norm.
    optimizer = {"name": "sgd", "learningRate": 0.1}
    return a_spec(
        batchSize=max(pieces, 5), accumulation=pieces, optimizer=optimizer, parallelism={"batchNorm": batch_norm}
    )


def the_batch(samples: int) -> GlobalBatch:
    return GlobalBatch(0, np.arange(samples), end=samples, ends_epoch=False)


def taken(setup: Setup, parts: Iterable[np.ndarray[Any, Any]]) -> list[Batch]:
    return [setup.training.get(0, part) for part in parts]


def results(setup: Setup) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]:
    """The gradients and the buffers."""
    named = setup.task.model.named_parameters()
    gradients = {name: parameter.grad.numpy().copy() for name, parameter in named if parameter.grad is not None}
    return gradients, {name: buffer.numpy().copy() for name, buffer in setup.task.model.named_buffers()}


def one_step(world: World, samples: int, pieces: int, batch_norm: str) -> Any:
    setup, batch = set_up(the_spec(pieces, batch_norm), world), the_batch(samples)
    mine = shares(batch, rank=world.rank, size=world.size, pieces=setup.micro_batches)
    feed = iter(taken(setup, (share.indices for share in mine)))
    train_step(setup, feed, batch, step=0, rate=0.0, stop=False)
    return results(setup)


def expected(groups: Sequence[np.ndarray[Any, Any]], samples: int) -> Any:
    """One process, which takes these groups of samples one after the other, and nothing else."""
    setup = set_up(the_spec(1, "local"), ALONE)
    for batch in taken(setup, groups):
        setup.replica.forward_backward(batch, scale=1 / samples)
    return results(setup)


def pieces_by_rank(samples: int, size: int, pieces: int) -> list[list[np.ndarray[Any, Any]]]:
    ranks = [np.arange(samples)[rank_slice(samples, rank, size)] for rank in range(size)]
    return [[mine[rank_slice(len(mine), piece, pieces)] for piece in range(pieces)] for mine in ranks]


def filled(parts: Iterable[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    return [part for part in parts if len(part)]


def assert_close(found: dict[str, np.ndarray[Any, Any]], wanted: dict[str, np.ndarray[Any, Any]]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("samples", "size", "pieces"), UNEVEN)
def test_local_statistics_are_those_of_a_ranks_own_samples(samples: int, size: int, pieces: int) -> None:
    by_rank = pieces_by_rank(samples, size, min(pieces, -(-samples // size)))
    alone = [expected(filled(parts), samples) for parts in by_rank]
    whole = {name: sum(gradients.get(name, 0.0) for gradients, _ in alone) for name in alone[0][0]}
    for (gradients, buffers), (_, own) in zip(in_world(size, one_step, samples, pieces, "local"), alone, strict=True):
        assert_close(gradients, whole)
        assert_close(buffers, own)


@pytest.mark.parametrize(("samples", "size", "pieces"), UNEVEN)
def test_synchronised_statistics_are_those_of_all_samples(samples: int, size: int, pieces: int) -> None:
    by_rank = pieces_by_rank(samples, size, min(pieces, -(-samples // size)))
    gradients, buffers = expected([np.concatenate(parts) for parts in zip(*by_rank, strict=True)], samples)
    for found in in_world(size, one_step, samples, pieces, "sync"):
        assert_close(found[0], gradients)
        assert_close(found[1], buffers)


def test_whatever_a_forward_pass_moves_is_put_back() -> None:
    """Not batch norm alone: an estimate that a layer makes step by step, a buffer that it replaces."""

    class Counting(nn.Module):
        seen: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            self.seen = self.seen + len(values)
            return values

    model = nn.Sequential(Counting(), nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5)), nn.BatchNorm1d(5))
    batch = a_batch(torch.randn(4, 6), torch.arange(4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Replica(ClassificationTask(model, 5)).forward_backward(batch, scale=0.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)
