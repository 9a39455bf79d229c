"""The table of update modes. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scaling_api.spec import ScalingJobSpec
from scaling_api.update import UpdateSpec
from scaling_training.registry import lookup, table
from scaling_training.train.types import TrainOutcome, World

if TYPE_CHECKING:
    import torch

    from scaling_training.update.meetings import Meetings


# A loop: what `scaling_training.train.loop.train` takes, and ``server`` for modes that need one.
Train = Callable[..., TrainOutcome]


@dataclass(frozen=True, slots=True)
class UpdateMode:
    """A mode by name. ``load`` imports the loop that its training processes run."""

    name: str
    description: str
    load: Callable[[], Train] = field(repr=False)
    # How the processes of the loop come together, for a model and its optimizer.
    meetings: Callable[[UpdateSpec, World, torch.nn.Module, torch.optim.Optimizer], Meetings] = field(repr=False)
    averages_gradients: bool = False  # in each step; else a replica computes its own
    parameter_server: bool = False  # the processes share one


def _in_step() -> Train:
    from scaling_training.train.loop import train

    def run(spec: ScalingJobSpec, *, server: Any, **how: Any) -> TrainOutcome:
        return train(spec, **how)

    return run


def _by_server() -> Train:
    from scaling_training.update.async_loop import train_async

    return train_async


def _every_step(spec: UpdateSpec, world: World, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Meetings:
    from scaling_training.update.meetings import EveryStep

    return EveryStep(world)


def _every_round(spec: UpdateSpec, world: World, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Meetings:
    from scaling_training.update.averaging import Averager
    from scaling_training.update.meetings import EveryRound

    assert spec.steps is not None
    return EveryRound(world, Averager(model, optimizer, spec, processes=world.size), steps=spec.steps)


UPDATE_MODES: Mapping[str, UpdateMode] = table(
    UpdateMode("sync", "each step is that of the whole global batch", _in_step, _every_step, averages_gradients=True),
    UpdateMode("local", "each process takes steps by itself, then weights are averaged", _in_step, _every_round),
    UpdateMode(
        "async", "each process sends gradients to a parameter server", _by_server, _every_step, parameter_server=True
    ),
)


def update_mode(spec: ScalingJobSpec) -> UpdateMode:
    """The mode of a spec."""
    return lookup(UPDATE_MODES, spec.training.update.mode, field="training.update.mode")
