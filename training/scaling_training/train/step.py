"""One optimizer step over all processes.

The gradient is the sum of the samples' gradients over the *global* number of samples. A replica takes the mean
over its batch ranks of what each computes, so each scales its own sum of losses by ranks / global samples:
right also when the shares differ in size, for micro-batches, and for the smaller last batch of an epoch. No process
takes more micro-batches than the largest share has samples. A rank with one sample less runs one with weight 0,
because every rank must take part in the collectives; neither gradients nor statistics know of it (`standing_in`).

What the ranks must agree on besides, the loss, whether all gradients are finite, and whether to stop, is one small sum,
which the host waits for once. In update mode sync it is known before the weights move: a loss or a gradient that is
not finite never reaches them. Other modes meet less often (see `scaling_training.update.meetings`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from scaling_training.data.batches import Batch
from scaling_training.data.order import GlobalBatch, shares
from scaling_training.data.requests import Request
from scaling_training.optim.clip import clip_gradients
from scaling_training.optim.tensors import local, local_norms
from scaling_training.train.setup import Setup
from scaling_training.update.meetings import Agreed
from scaling_training.update.modes import update_mode
from scaling_training.world.heartbeat import Beat, Phase, silent


class LossNotFiniteError(Exception):
    """The loss of a step, or the norm of its gradient, is infinite or no number; the message says which.

    The weights are those from before the step. ``everywhere`` says whether all ranks raise it in this step.
    """

    def __init__(self, message: str, *, everywhere: bool) -> None:
        super().__init__(message)
        self.everywhere = everywhere


@dataclass(frozen=True, slots=True)
class StepResult:
    """The same on all ranks, but for the time."""

    # Over the global batches since the ranks last met; 0 and False for a step in which they do not meet.
    loss_sum: float
    samples: int
    steps: int
    stop: bool
    data_wait_s: float  # this rank's
    gradient_norm: float | None  # before clipping; None when nothing asked for it
    skipped: bool = False  # fp16: the scaled gradient overflowed, so the weights stayed where they were


def requests_from(setup: Setup, cursor: int) -> Iterator[Request]:
    """This rank's micro-batches from the cursor to the end of the last epoch, in the order that steps take them."""
    mesh = setup.mesh
    while cursor < len(setup.training) * setup.spec.training.epochs:
        batch = setup.order.batch_at(cursor)
        for share in shares(batch, rank=mesh.batch_rank, size=mesh.batch_ranks, pieces=setup.micro_batches):
            yield Request(batch.epoch, share.indices)
        cursor = batch.end


def train_step(
    setup: Setup,
    feed: Iterator[Batch],
    batch: GlobalBatch,
    *,
    step: int,
    rate: float,
    stop: bool,
    beat: Beat = silent,
) -> StepResult:
    """Take step number ``step`` (0-based) at this learning rate.

    ``feed`` gives the batches of `requests_from`, ``stop`` is what this rank wishes; ``beat`` is told how far it is.
    """
    mesh, optimizer = setup.mesh, setup.optimizer
    parts = shares(batch, rank=mesh.batch_rank, size=mesh.batch_ranks, pieces=setup.micro_batches)
    scale = mesh.batch_ranks / len(batch.indices) * setup.loss_scale.factor
    loss_sum = torch.zeros((), dtype=torch.float64, device=setup.world.device)
    data_wait_s = 0.0
    optimizer.zero_grad()
    for number, part in enumerate(parts, start=1):
        began = time.monotonic()
        beat(Phase.DATA, step)
        micro_batch = next(feed)
        beat(step_phase(setup, micro_batch), step)
        data_wait_s += time.monotonic() - began
        loss_sum += setup.replica.forward_backward(micro_batch, scale=scale * part.weight, sync=number == len(parts))
    # Ranks that share a batch rank know the same loss; one of them speaks for all.
    spoken = loss_sum if mesh.is_batch_leader else torch.zeros_like(loss_sum)
    meetings = setup.meetings
    meetings.begin(spoken, _watched(setup), stop=stop, samples=len(batch.indices), ends_epoch=batch.ends_epoch)
    norm = _prepare(setup)
    agreed = meetings.agree()
    if setup.loss_scale.exhausted:
        _check_finite(agreed, norm, is_global=update_mode(setup.spec).averages_gradients)
    for group in optimizer.param_groups:
        group["lr"] = rate
    skipped = norm is not None and not setup.loss_scale.accept(norm)
    if not skipped:
        optimizer.step()
        if setup.ema is not None:
            setup.ema.update(step + 1 - setup.loss_scale.skipped)
    meetings.finish()
    agreed = agreed or Agreed(0.0, 0.0, False, 0, 0)
    return StepResult(agreed.loss_sum, agreed.samples, agreed.steps, agreed.stop, data_wait_s, norm, skipped)


def step_phase(setup: Setup, batch: Batch) -> Phase:
    """What the pass over ``batch``, which is about to begin, is to a watchdog; asked once for each."""
    compiles = setup.compilation is not None and setup.compilation.meets_new(batch)
    return Phase.COMPILE if compiles else Phase.STEP


def _watched(setup: Setup) -> torch.Tensor:
    """One element that is finite when this process's gradients are; 0 where their norm will be known besides."""
    if _finds_norm(setup):
        return torch.zeros((), device=setup.world.device)
    gradients = [parameter.grad for parameter in setup.parameters if parameter.grad is not None]
    return local_norms(gradients).sum().to(setup.world.device)


def _check_finite(agreed: Agreed | None, norm: float | None, *, is_global: bool) -> None:
    """``is_global``: the norm is that of the mean gradient, which all processes have."""
    if agreed is not None and not math.isfinite(agreed.loss_sum):
        raise LossNotFiniteError(f"loss became {agreed.loss_sum}", everywhere=True)
    if agreed is not None and not math.isfinite(agreed.gradients):
        raise LossNotFiniteError(f"gradient's norm became {agreed.gradients}", everywhere=True)
    if norm is not None and not math.isfinite(norm):
        raise LossNotFiniteError(f"gradient's norm became {norm}", everywhere=is_global)


def _finds_norm(setup: Setup) -> bool:
    return setup.spec.training.clip_norm is not None or setup.loss_scale.watches


def _prepare(setup: Setup) -> float | None:
    """Unscale and clip the gradients; their norm where it is needed."""
    clip, scale = setup.spec.training.clip_norm, setup.loss_scale
    if scale.factor != 1.0:
        held = [local(parameter.grad) for parameter in setup.parameters if parameter.grad is not None]
        torch._foreach_mul_(held, 1.0 / scale.factor)
    if not _finds_norm(setup):
        return None
    stages = setup.mesh.group("pipeline")
    return float(clip_gradients(setup.parameters, clip if clip is not None else math.inf, stages=stages))
