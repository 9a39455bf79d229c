"""Images and labels in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ImageArrays:
    """Images with their classes. Raw values run from 0 (background) to ``max_value``."""

    images: NDArray[np.uint8]  # sample, channel, height, width
    labels: NDArray[np.int64]
    max_value: int

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> ImageArrays:
        """The samples at these indices, in this order."""
        return ImageArrays(self.images[indices], self.labels[indices], self.max_value)
