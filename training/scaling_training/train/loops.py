"""Which loop a spec's training processes run. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scaling_api.spec import ScalingJobSpec
from scaling_training.train.types import TrainOutcome
from scaling_training.update.modes import update_mode

# What `scaling_training.train.loop.train` takes, and ``server``, which is None where the mode needs none.
Train = Callable[..., TrainOutcome]


def loop_of(spec: ScalingJobSpec) -> Train:
    """The loop, imported now."""
    if update_mode(spec).parameter_server:
        from scaling_training.train.async_loop import train_async

        return train_async
    from scaling_training.train.loop import train

    def run(spec: ScalingJobSpec, *, server: Any, **how: Any) -> TrainOutcome:
        return train(spec, **how)

    return run
