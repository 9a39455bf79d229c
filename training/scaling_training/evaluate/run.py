"""Evaluating a checkpoint on a split, in one process, batch by batch."""

from __future__ import annotations

from typing import Literal

from scaling_api.spec import ScalingJobSpec
from scaling_training.checkpoint import CheckpointRef
from scaling_training.data import TestAccess
from scaling_training.evaluate.metrics import Metrics
from scaling_training.storage import Storage


def evaluate(
    spec: ScalingJobSpec,
    *,
    storage: Storage,
    checkpoint: CheckpointRef,
    split: Literal["validation", "test"],
    access: TestAccess | None = None,
    device: str = "cpu",
) -> Metrics:
    """Metrics of the checkpoint's model on the split.

    The test split needs ``access=TestAccess("evaluate")``; without it a ValueError is raised. A damaged
    checkpoint raises UserError.
    """
    raise NotImplementedError
