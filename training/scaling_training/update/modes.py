"""The table of update modes. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scaling_api.spec import ScalingJobSpec
from scaling_training.registry import lookup, table


@dataclass(frozen=True, slots=True)
class UpdateMode:
    """A mode by name, and what the processes make common in it: exactly one of the three is true."""

    name: str
    description: str
    averages_gradients: bool = False  # in each step
    averages_weights: bool = (
        False  # at the end of a round of steps, in which each replica computes gradients of its own
    )
    parameter_server: bool = False  # one takes everybody's gradients


UPDATE_MODES: Mapping[str, UpdateMode] = table(
    UpdateMode("sync", "each step is that of the whole global batch", averages_gradients=True),
    UpdateMode("local", "each process takes steps by itself, then weights are averaged", averages_weights=True),
    UpdateMode("async", "each process sends gradients to a parameter server", parameter_server=True),
)


def update_mode(spec: ScalingJobSpec) -> UpdateMode:
    """The mode of a spec."""
    return lookup(UPDATE_MODES, spec.training.update.mode, field="training.update.mode")
