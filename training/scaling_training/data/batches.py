"""What a step gets: tensors on its device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Batch:
    """What a task unpacks."""

    inputs: torch.Tensor
    # Classes: int64 [sample]; after mixup or cutmix the shares of each, float [sample, class]. Labels: float 0 or 1
    # [sample, label]. Numbers: float [sample] or [sample, number], as the data set has them.
    targets: torch.Tensor
    # int64 [sample]: a well-mixed 63-bit number, a function of (seed, epoch, sample), for what is drawn in the model.
    keys: torch.Tensor

    def __len__(self) -> int:
        return len(self.targets)
