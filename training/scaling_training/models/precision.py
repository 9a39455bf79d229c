"""In which precision a model runs, wherever it does: in training, in validation and in the evaluation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from scaling_api.spec import TrainingSpec
from scaling_training.data.batches import Batch

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def precision(training: TrainingSpec, device: torch.device) -> Callable[[Batch], AbstractContextManager[object]]:
    """What is entered around each forward pass: torch's autocast, or nothing in full precision."""
    half = _HALF.get(training.precision)

    def around(batch: Batch) -> AbstractContextManager[object]:
        return torch.autocast(device.type, half) if half is not None else nullcontext()

    return around
