"""Specs and values for the tests of the training library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaling_api.spec import ScalingJobSpec

if TYPE_CHECKING:
    import torch

    from scaling_training.data.batches import Batch


def a_batch(inputs: torch.Tensor, targets: torch.Tensor) -> Batch:
    """A batch of samples that nothing is drawn for."""
    import torch

    from scaling_training.data.batches import Batch

    return Batch(inputs, targets, torch.arange(len(targets)))


def a_spec(**training: Any) -> ScalingJobSpec:
    """A small job on digits; keyword arguments go over its training section (camelCase)."""
    return ScalingJobSpec.model_validate(
        {
            "model": {"name": "small-cnn", "width": 0.125},
            "dataset": {"name": "digits", "augmentation": {"rotation": 10, "shift": 0.1, "zoom": 0.1, "shear": 5}},
            "training": {
                "epochs": 2,
                "batchSize": 500,  # two full batches and one of 259
                "schedule": {"name": "one-cycle", "warmupFraction": 0.3},
                "optimizer": {"name": "adam", "learningRate": 3e-3},
                **training,
            },
        }
    )
