"""The table of update modes. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from scaling_api.spec import ScalingJobSpec
from scaling_training.registry import lookup, table
from scaling_training.train.types import TrainOutcome


class Train(Protocol):
    """A loop; see `scaling_training.train.loop.train` for ``how``. ``server`` is for modes that need one."""

    def __call__(self, spec: ScalingJobSpec, *, server: Any, **how: Any) -> TrainOutcome: ...


@dataclass(frozen=True, slots=True)
class UpdateMode:
    """A mode by name. ``load`` imports the loop that its training processes run."""

    name: str
    description: str
    load: Callable[[], Train] = field(repr=False)
    parameter_server: bool = False  # the processes share one


def _in_step() -> Train:
    from scaling_training.train.loop import train

    def run(spec: ScalingJobSpec, *, server: Any, **how: Any) -> TrainOutcome:
        return train(spec, **how)

    return run


def _by_server() -> Train:
    from scaling_training.update.async_loop import train_async

    return train_async


UPDATE_MODES: Mapping[str, UpdateMode] = table(
    UpdateMode("sync", "each step is that of the whole global batch", _in_step),
    UpdateMode("local", "each process takes steps by itself, then weights are averaged", _in_step),
    UpdateMode("async", "each process sends gradients to a parameter server", _by_server, parameter_server=True),
)


def update_mode(spec: ScalingJobSpec) -> UpdateMode:
    """The mode of a spec."""
    return lookup(UPDATE_MODES, spec.training.update.mode, field="training.update.mode")
