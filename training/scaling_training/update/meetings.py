"""When the training processes meet: what they agree on then, and what they do with their weights.

In mode sync they meet in every step: the replica averages gradients, and what is agreed on is known before the weights
move. In mode local they meet at the end of a round (see `averaging`); between two meetings nobody waits for anybody,
a wish to stop included, and a loss or a gradient that is not finite shows at the next one, before anything is saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from scaling_api.spec import ScalingJobSpec
from scaling_training.checkpoint.state import HasState
from scaling_training.update.averaging import Averager, ends_round
from scaling_training.update.modes import update_mode
from scaling_training.world import World
from scaling_training.world.collectives import PendingSum, begin_sum


@dataclass(frozen=True, slots=True)
class Agreed:
    """What all processes know after a meeting: sums over processes and over the steps since the last one."""

    loss_sum: float
    gradients: float  # of no meaning but this: not finite when a gradient was not
    stop: bool
    samples: int
    steps: int


class Meetings(Protocol):
    """One step's part in coming together; the three are called in this order in each step."""

    @property
    def state(self) -> HasState | None:
        """What it keeps from one meeting to the next."""

    def begin(
        self, loss_sum: torch.Tensor, gradients: torch.Tensor, *, stop: bool, samples: int, ends_epoch: bool
    ) -> None:
        """After the backward pass: this process's sum of losses and wish, the global batch's size.

        ``gradients`` is finite when all of this process's are. Both tensors have one element.
        """

    def agree(self) -> Agreed | None:
        """Before the weights move; None when this step is not a meeting."""

    def finish(self) -> None:
        """After the weights have moved."""


class EveryStep:
    """Mode sync."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pending: PendingSum | None = None
        self._samples = 0

    @property
    def state(self) -> HasState | None:
        """Nothing."""
        return None

    def begin(
        self, loss_sum: torch.Tensor, gradients: torch.Tensor, *, stop: bool, samples: int, ends_epoch: bool
    ) -> None:
        """Start adding up."""
        self._pending = begin_sum(self._world, _values(loss_sum, gradients, stop))
        self._samples = samples

    def agree(self) -> Agreed | None:
        """The sums of this step."""
        assert self._pending is not None
        loss_sum, gradients, stops = self._pending.wait()
        return Agreed(loss_sum, gradients, stops > 0, self._samples, 1)

    def finish(self) -> None:
        """All weights have moved alike."""


class EveryRound:
    """Mode local: a meeting after every ``steps`` steps of an epoch, and at its end."""

    def __init__(self, world: World, averager: Averager, *, steps: int) -> None:
        self._world = world
        self._averager = averager
        self._every = steps
        self._sums: torch.Tensor | None = None
        self._pending: PendingSum | None = None
        self._samples = 0
        self._steps = 0

    @property
    def state(self) -> HasState | None:
        """The outer optimizer's."""
        return self._averager

    def begin(
        self, loss_sum: torch.Tensor, gradients: torch.Tensor, *, stop: bool, samples: int, ends_epoch: bool
    ) -> None:
        """Count; start adding up when the round ends with this step."""
        # On the device: to look at a value, the host would have to wait for it.
        values = _values(loss_sum, gradients, stop)
        self._sums = values if self._sums is None else self._sums + values
        self._samples += samples
        if ends_round(self._steps, every=self._every, ends_epoch=ends_epoch):
            self._pending = begin_sum(self._world, self._sums)
        self._steps += 1

    def agree(self) -> Agreed | None:
        """The sums of the round that ends here."""
        if self._pending is None:
            return None
        loss_sum, gradients, stops = self._pending.wait()
        return Agreed(loss_sum, gradients, stops > 0, self._samples, self._steps)

    def finish(self) -> None:
        """Average, if the round ends here."""
        if self._pending is not None:
            self._averager.average()
            self._sums = self._pending = None
            self._samples = self._steps = 0


def meetings_of(
    spec: ScalingJobSpec, world: World, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> Meetings:
    """How the processes that train the spec's model come together."""
    if not update_mode(spec).averages_weights:
        return EveryStep(world)
    update = spec.training.update
    assert update.steps is not None
    return EveryRound(world, Averager(model, optimizer, update, processes=world.size), steps=update.steps)


def _values(loss_sum: torch.Tensor, gradients: torch.Tensor, stop: bool) -> torch.Tensor:
    wish = torch.tensor(float(stop), dtype=torch.float64, device=loss_sum.device)
    return torch.stack((loss_sum.double(), gradients.double(), wish))
