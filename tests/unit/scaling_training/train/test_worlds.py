"""What several processes do together is what one does alone, up to the order of floating-point sums."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from scaling_api.spec import ScalingJobSpec
from scaling_training.errors import UserError
from scaling_training.models.task import ClassificationTask
from scaling_training.optim import build_optimizer
from scaling_training.parallel.parallelize import parallelize
from scaling_training.storage import Storage
from scaling_training.train import TrainOutcome, World
from scaling_training.train.history import parse_rows
from scaling_training.train.loop import train
from scaling_training.train.setup import Setup, set_up
from scaling_training.train.step import requests_from, train_step
from scaling_training.world import collectives
from scaling_training.world.collectives import broadcast_bytes
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.worlds import in_world

SGD = {"optimizer": {"name": "sgd", "learningRate": 0.1, "momentum": 0.9}, "schedule": {"name": "constant"}}


def without_batch_norm(setup: Setup) -> Setup:
    """Batch norm is local to a rank, so parity is a matter of models without it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 10))
    task = ClassificationTask(model, 10)
    optimizer = build_optimizer(setup.spec.training.optimizer, model.parameters())
    return replace(
        setup,
        task=task,
        replica=parallelize(task, setup.mesh, spec=setup.spec),
        parameters=tuple(model.parameters()),
        optimizer=optimizer,
    )


def steps(world: World, spec: ScalingJobSpec, count: int) -> tuple[list[float], dict[str, np.ndarray[Any, Any]]]:
    """Losses of the first steps, then weights and the last step's gradients."""
    setup = without_batch_norm(set_up(spec, world))
    feed = setup.training.stream(requests_from(setup, 0))
    cursor, losses = 0, []
    for step in range(count):
        batch = setup.order.batch_at(cursor)
        rate = spec.training.optimizer.learning_rate
        losses.append(train_step(setup, feed, batch, step=step, rate=rate, stop=False).loss_sum)
        cursor = batch.end
    values = {name: value.detach().numpy() for name, value in setup.task.model.named_parameters()}
    grads = {f"{name}.grad": value.grad.numpy() for name, value in setup.task.model.named_parameters()}  # type: ignore[union-attr]
    return losses, values | grads


@pytest.mark.parametrize(
    ("batch_size", "count"),
    [
        pytest.param(127, 1, id="a batch that divides by neither 2 nor 3"),
        pytest.param(500, 6, id="two epochs with a smaller last batch"),
        pytest.param(629, 3, id="a last batch of one sample, so that ranks stand idle"),
    ],
)
def test_two_and_three_processes_take_the_steps_of_one(batch_size: int, count: int) -> None:
    spec = a_spec(batchSize=batch_size, **SGD)
    losses, values = in_world(1, steps, spec, count)[0]
    for size in (2, 3):
        for rank, (their_losses, their_values) in enumerate(in_world(size, steps, spec, count)):
            assert their_losses == pytest.approx(losses, rel=1e-5), f"rank {rank} of {size}"
            for name, value in values.items():
                np.testing.assert_allclose(their_values[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def run(world: World, root: str, attempt: int, stop_at: int | None = None, die_at: int | None = None) -> TrainOutcome:
    """train() with a stop or a kill -9 of this process when that many steps have begun."""
    asked = iter(range(1, 1000))

    def stop_requested() -> bool:
        assert world.rank == 0
        step = next(asked)
        if step == die_at:
            signal.raise_signal(signal.SIGKILL)
        return step == stop_at

    return train(
        a_spec(),
        storage=Storage(root),
        attempt=attempt,
        world=world,
        observer=lambda progress: None,
        stop_requested=stop_requested,
        key="key",
        resume=None,
    )


def result(root: str, outcome: TrainOutcome) -> tuple[bytes, list[dict[str, float]]]:
    storage = Storage(root)
    rows = [dict(row) for row in parse_rows(storage.read(outcome.history))]
    return storage.read(f"{outcome.checkpoint.folder}/model.safetensors"), [row | {"seconds": 0} for row in rows]


Result = tuple[bytes, list[dict[str, float]]]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Result]:
    """The result of an undisturbed run on so many processes."""

    @cache
    def of(size: int) -> Result:
        root = str(tmp_path_factory.mktemp("straight"))
        outcomes = in_world(size, run, root, 1)
        assert outcomes == [outcomes[0]] * size
        return result(root, outcomes[0])

    return of


# From three ranks on, the order in which gradients are summed depends on the layout of DDP's buckets.
@pytest.mark.parametrize(("size", "step"), [(2, 1), (2, 3), (3, 2), (4, 5)])
def test_processes_stop_at_one_step_and_resume_bit_for_bit(
    tmp_path: Path, straight: Callable[[int], Result], size: int, step: int
) -> None:
    stopped = in_world(size, run, str(tmp_path), 1, step)
    assert [(outcome.stopped, outcome.step) for outcome in stopped] == [(True, step)] * size

    resumed = in_world(size, run, str(tmp_path), 2)
    assert result(str(tmp_path), resumed[0]) == straight(size)


@pytest.mark.parametrize(
    ("size", "attempt"), [(2, 1), (3, 2), (4, 1)], ids=["workers restarted", "new attempt", "four workers restarted"]
)
def test_processes_killed_in_mid_epoch_resume_bit_for_bit(
    tmp_path: Path, straight: Callable[[int], Result], size: int, attempt: int
) -> None:
    with pytest.raises((AssertionError, EOFError)):
        in_world(size, run, str(tmp_path), 1, None, 5)
    resumed = in_world(size, run, str(tmp_path), attempt)
    assert result(str(tmp_path), resumed[0]) == straight(size)


def test_another_number_of_processes_goes_on_from_the_same_place(tmp_path: Path) -> None:
    in_world(3, run, str(tmp_path), 1, 4)
    outcome = in_world(2, run, str(tmp_path), 2)[0]
    assert (outcome.stopped, outcome.epoch, outcome.step) == (False, 2, 6)
    assert [row["epoch"] for row in result(str(tmp_path), outcome)[1]] == [1, 2]


def diverge(world: World, root: str) -> str:
    optimizer = {"name": "sgd", "learningRate": 10.0, "weightDecay": 1.0}
    try:
        train(
            a_spec(optimizer=optimizer, schedule={"name": "constant"}, epochs=20),
            storage=Storage(root),
            attempt=1,
            world=world,
            observer=lambda progress: None,
            stop_requested=lambda: False,
            key="key",
            resume=None,
        )
    except UserError as error:
        return str(error)
    return "it converged"


def test_every_process_ends_when_the_loss_is_not_finite(tmp_path: Path) -> None:
    first, second = in_world(2, diverge, str(tmp_path))
    assert "learningRate (10)" in first
    assert "learningRate (10)" in second


def exchange(world: World, content: bytes) -> bytes:
    return broadcast_bytes(world, content if world.is_first else None)


@pytest.mark.parametrize("content", [b"", b"x", b"some bytes" * 1000], ids=len)
def test_bytes_reach_every_process(content: bytes) -> None:
    assert in_world(2, exchange, content) == [content, content]


def exchange_in_pieces(world: World, content: bytes) -> tuple[bytes, list[int]]:
    """What arrived, and the bytes of each tensor that was broadcast."""
    sent = []
    broadcast = dist.broadcast

    def noting(tensor: torch.Tensor, **named: Any) -> None:
        sent.append(tensor.nbytes)
        broadcast(tensor, **named)

    with patch.object(dist, "broadcast", noting), patch.object(collectives, "PIECE_BYTES", 1000):
        return exchange(world, content), sent


def test_much_is_sent_in_pieces_so_that_it_never_lies_on_the_device_as_a_whole() -> None:
    content = random.Random(1).randbytes(2500)
    # First of all how much there is.
    assert in_world(2, exchange_in_pieces, content) == [(content, [8, 1000, 1000, 500])] * 2


def _trained_by_itself(world: World, root: Path) -> tuple[int, str]:
    spec = a_spec(epochs=1, batchSize=500, parallelism={"auto": True, "batchNorm": "sync"})
    outcome = train(
        spec,
        storage=Storage(str(root)),
        attempt=1,
        world=world,
        observer=lambda progress: None,
        stop_requested=lambda: False,
        key="key",
        resume=None,
    )
    return outcome.step, str(set_up(spec, world).mesh.shape)


def test_a_mesh_that_is_chosen_trains(tmp_path: Path) -> None:
    (steps_taken, shape), other = in_world(2, _trained_by_itself, tmp_path)
    assert steps_taken == 3
    assert other == (steps_taken, shape)
    assert shape in {"data 2", "fsdp 2", "tensor 2"}


def hashed(world: World) -> bool:
    """Whether this rank hashed the data, which the driver has done for the key."""
    return "fingerprint" in vars(set_up(a_spec(), world).dataset)


def test_no_training_process_hashes_the_data() -> None:
    assert in_world(2, hashed) == [False, False]
