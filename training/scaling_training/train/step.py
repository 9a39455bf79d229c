"""One optimizer step over all processes.

The gradient is the sum of the samples' gradients over the *global* number of samples. DDP takes the mean over
ranks of what each computes, so each scales its own sum of losses by ranks / global samples: right also when
the shares differ in size, and for the smaller last batch of an epoch. A rank without a sample there (a last
batch smaller than the world) runs one sample with weight 0, because every rank must take part in the
collectives; it is never rank 0, whose batch norm statistics are the ones that count.

What the ranks must agree on besides, the loss and whether to stop, is one small sum that travels while the
backward pass computes. It is known before the weights move: a loss that is not finite never reaches them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import nn

from scaling_training.data.order import GlobalBatch, rank_slice
from scaling_training.optim import learning_rate
from scaling_training.train.collectives import begin_sum
from scaling_training.train.heartbeat import Beat, Phase, silent
from scaling_training.train.setup import Setup


class LossNotFiniteError(Exception):
    """The loss of a step is infinite or no number; the weights are those from before the step."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """The same on all ranks, but for the time."""

    loss_sum: float  # over the global batch
    stop: bool
    data_wait_s: float  # this rank's


def train_step(
    setup: Setup, replica: nn.Module, batch: GlobalBatch, *, step: int, stop: bool, beat: Beat = silent
) -> StepResult:
    """Take step number ``step`` (0-based); ``stop`` is what this rank wishes."""
    world, task, training = setup.world, setup.task, setup.spec.training
    mine = batch.indices[rank_slice(len(batch.indices), world.rank, world.size)]
    weight = 1.0 if len(mine) else 0.0
    began = time.monotonic()
    local = setup.training.get(batch.epoch, mine if len(mine) else batch.indices[:1])
    data_wait_s = time.monotonic() - began
    beat(Phase.STEP, step)

    rate = learning_rate(
        training.schedule, peak=training.optimizer.learning_rate, step=step, total_steps=setup.total_steps
    )
    for group in setup.optimizer.param_groups:
        group["lr"] = rate
    setup.optimizer.zero_grad()
    loss_sum = task.loss_sum(replica(*task.inputs(local)), local) * weight
    shared = torch.stack((loss_sum.detach().double(), torch.tensor(float(stop), device=world.device).double()))
    agreed = begin_sum(world, shared)
    (loss_sum * (world.size / len(batch.indices))).backward()  # type: ignore[no-untyped-call]
    total_loss, stops = agreed.wait()
    if not math.isfinite(total_loss):
        raise LossNotFiniteError(f"{total_loss}")
    setup.optimizer.step()
    return StepResult(total_loss, stops > 0, data_wait_s)
