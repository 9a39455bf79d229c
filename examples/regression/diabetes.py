"""How far does diabetes get within a year? 442 patients, ten measurements each (Efron et al. 2004).

Targets that are floats make regression of a data set: `RegressionTask` has its loss and its metrics.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from scaling_training.models.task import RegressionTask

# About the mean and the deviation of the targets: what the network gives is relative to them, so that its errors
# are in the targets' unit and its weights near 1.
_MIDDLE, _SPREAD = 150.0, 75.0


def data() -> dict[str, Any]:
    """Measurements float32 [442, 10] of mean 0 and deviation 1, and progression float32 [442]."""
    from sklearn.datasets import load_diabetes

    inputs, progression = load_diabetes(return_X_y=True)
    inputs = inputs / inputs.std(axis=0)
    return {"train": (inputs.astype(np.float32), progression.astype(np.float32))}


class Progression(nn.Module):
    """Measurements [n, 10] to the progression [n, outputs]."""

    def __init__(self, features: int, outputs: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(width, outputs)

    def forward(self, measurements: Tensor) -> Tensor:
        found: Tensor = self.head(self.layers(measurements))
        return _MIDDLE + _SPREAD * found


def model(*, input_shape: tuple[int, ...], outputs: int, width: int = 32) -> RegressionTask:
    """What `model.factory` calls; `width` comes from `model.arguments`, the rest from the data set."""
    return RegressionTask(Progression(input_shape[0], outputs, width), outputs, head="head")
