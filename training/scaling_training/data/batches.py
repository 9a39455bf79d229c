"""From arrays to the tensors of a step: pick, augment, normalise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from scaling_training.data.arrays import ImageArrays
from scaling_training.data.augment import AffineAugmentation


@dataclass(frozen=True, slots=True)
class Batch:
    """What a task unpacks."""

    inputs: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Per channel: what is subtracted from the values scaled to 0..1, and what they are divided by."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, train: ImageArrays) -> Normalisation:
        """Mean and standard deviation of the training split. Of no other: the others stand for unseen data."""
        scaled = train.images.astype(np.float64) / train.max_value
        mean, std = scaled.mean(axis=(0, 2, 3)), scaled.std(axis=(0, 2, 3))
        # A channel that never varies carries nothing; it must not be blown up by a division by 0.
        return cls(tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist()))


class Batches:
    """The samples of one split as batches on a device."""

    def __init__(
        self,
        split: ImageArrays,
        *,
        normalisation: Normalisation,
        device: torch.device,
        augmentation: AffineAugmentation | None = None,
    ) -> None:
        self._images = torch.from_numpy(split.images)
        self._labels = torch.from_numpy(split.labels)
        self._max_value = split.max_value
        self._augmentation = augmentation
        self._device = device
        channels = (1, -1, 1, 1)
        self._mean = torch.tensor(normalisation.mean, device=device).reshape(channels)
        self._std = torch.tensor(normalisation.std, device=device).reshape(channels)

    def __len__(self) -> int:
        return len(self._labels)

    def get(self, epoch: int, indices: NDArray[np.int64]) -> Batch:
        """These samples as they look in this epoch."""
        picked = torch.from_numpy(indices)
        images = self._images[picked].to(self._device).float().div_(self._max_value)
        if self._augmentation is not None:
            images = self._augmentation.apply(images, epoch, indices)
        return Batch(images.sub_(self._mean).div_(self._std), self._labels[picked].to(self._device))

    def stretch(self, samples: slice, size: int) -> Iterator[Batch]:
        """The samples of a slice of the split in their own order, in batches of at most ``size``."""
        for start in range(samples.start, samples.stop, size):
            yield self.get(0, np.arange(start, min(start + size, samples.stop)))
