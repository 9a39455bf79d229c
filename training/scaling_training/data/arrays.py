"""Samples in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling_training.data.samples import Raw


@dataclass(frozen=True, slots=True)
class ImageArrays:
    """Images with their classes. Raw values run from 0 (background) to ``max_value``.

    ``max_value`` None: not images but any arrays of numbers, [sample, ...], which are trained on as they are.
    """

    images: NDArray[np.uint8]  # sample, channel, height, width
    labels: NDArray[np.int64]
    max_value: int | None
    learned: NDArray[np.float32] | None = None  # labels or numbers of each sample; None: its class

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def targets(self) -> NDArray[Any]:
        """What is to be learned of each sample."""
        return self.labels if self.learned is None else self.learned

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.images.shape[1:])

    @property
    def in_memory(self) -> bool:
        """Always."""
        return True

    def take(self, indices: NDArray[np.int64]) -> ImageArrays:
        """The samples at these indices, in this order."""
        learned = None if self.learned is None else self.learned[indices]
        return ImageArrays(self.images[indices], self.labels[indices], self.max_value, learned)

    def read(self, indices: NDArray[np.int64], crops: NDArray[np.float64] | None = None) -> Raw:
        """Copies of these samples."""
        return Raw(self.images[indices])

    def name_of(self, index: int) -> str:
        """Its number."""
        return f"sample {index}"
