"""What a checkpoint is worth, measured by this process as the driver does it."""

from __future__ import annotations

from pathlib import Path

import torch

from scaling_api.spec import ScalingJobSpec
from scaling_training.checkpoint import CheckpointRef
from scaling_training.data import TestAccess, open_dataset
from scaling_training.evaluate import Metrics
from scaling_training.measure import measure
from scaling_training.storage import Storage
from scaling_training.train import World


def measured_alone(spec: ScalingJobSpec, root: Path | str, checkpoint: CheckpointRef) -> dict[str, Metrics]:
    """The metrics on test and validation data; ``root`` is the run folder."""
    dataset = open_dataset(spec.dataset)
    found = measure(
        spec,
        {"test": dataset.open_test(TestAccess("evaluate")), "validation": dataset.validation},
        dataset=dataset,
        storage=Storage(str(root)),
        checkpoint=checkpoint,
        world=World(rank=0, size=1, device=torch.device("cpu")),
    )
    assert found is not None, "nobody asked for a stop"
    return found
