"""Training a small model on a mesh for a few steps, and what came out as whole tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from scaling_training.data.batches import Batch
from scaling_training.data.order import rank_slice
from scaling_training.parallel import Mesh
from scaling_training.parallel.parallelize import parallelize
from scaling_training.parallel.replica import Replica
from scaling_training.train import World
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.parallel.small_models import OWN, a_batch, a_task, dropout, watched

RATE, MOMENTUM = 0.05, 0.9


@dataclass(frozen=True)
class Case:
    model: str
    parallelism: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 10
    steps: int = 20
    dtype: torch.dtype = torch.float64
    max_norm: float | None = None
    micro_batches: int = 1
    # How many shares one process treats apart, as so many batch ranks do.
    split: int = 1


@dataclass
class Result:
    losses: list[float]
    gradients: dict[str, torch.Tensor]  # of the first step
    state: dict[str, torch.Tensor]  # parameters and buffers at the end


def train_all(world: World, cases: Sequence[Case]) -> list[Result]:
    """Each case from fresh weights."""
    return [train(world, case) for case in cases]


def train(world: World, case: Case) -> Result:
    """SGD with momentum; the loss is the mean over the global batch."""
    task = a_task(case.model, case.dtype)
    if case.model in OWN:
        watched(task, case.model)
    spec = a_spec(parallelism=dict(case.parallelism))
    mesh = Mesh.of(spec.training.parallelism, world)
    replica = parallelize(task, mesh, spec=spec, around=partial(dropout, task.model))
    optimizer = torch.optim.SGD(replica.model.parameters(), RATE, MOMENTUM, foreach=False)
    losses, gradients = [], {}
    for step in range(case.steps):
        batch = a_batch(case.model, case.samples, step, case.dtype)
        optimizer.zero_grad()
        local = forward_backward(replica, mesh, batch, case)
        losses.append(total(world, mesh, local) / case.samples)
        if not step:
            gradients = {name: whole(p.grad) for name, p in replica.model.named_parameters() if p.grad is not None}
        if case.max_norm is not None:
            clip(replica, mesh, case.max_norm)
        optimizer.step()
    state = {name: whole(value).clone() for name, value in replica.model.state_dict().items()}
    return Result(losses, gradients, state)


def forward_backward(replica: Replica, mesh: Mesh, batch: Batch, case: Case) -> torch.Tensor:
    """This rank's share of the step, in micro-batches."""
    scale = mesh.batch_ranks / len(batch)
    sums = []
    shares = max(case.split, mesh.batch_ranks)
    for part in range(mesh.batch_rank, shares, mesh.batch_ranks):
        mine = rank_slice(len(batch), part, shares)
        share = _cut(batch, mine)
        for number in range(case.micro_batches):
            micro = _cut(share, rank_slice(len(share), number, case.micro_batches))
            last = number == case.micro_batches - 1
            # A rank without a sample runs one that counts for nothing.
            empty = not len(micro)
            sums.append(
                replica.forward_backward(
                    _cut(batch, slice(1)) if empty else micro, scale=0.0 if empty else scale, sync=last
                )
            )
    return torch.stack(sums).sum()


def _cut(batch: Batch, samples: slice) -> Batch:
    return Batch(batch.inputs[samples], batch.targets[samples], batch.keys[samples])


def total(world: World, mesh: Mesh, loss_sum: torch.Tensor) -> float:
    """The loss over all samples, as the loop adds it up."""
    value = loss_sum.double() * mesh.is_batch_leader
    if world.size > 1:
        dist.all_reduce(value)
    return value.item()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def clip(replica: Replica, mesh: Mesh, max_norm: float) -> None:
    gradients = [p.grad for p in replica.model.parameters() if p.grad is not None]
    square = torch.stack([whole(gradient).norm() for gradient in gradients]).double().square().sum()
    if (stages := mesh.group("pipeline")) is not None:
        dist.all_reduce(square, group=stages)
    norm = square.sqrt().item()
    if norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / norm)
