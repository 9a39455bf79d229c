"""Bringing each channel to about mean 0 and deviation 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling_api.spec import NormalizationSpec
from scaling_training.data.reading import read_chunks, spread
from scaling_training.data.samples import Samples
from scaling_training.errors import UserError

# Of ImageNet's training images, as every torchvision weight expects them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Of samples that have to be decoded, so many are looked at: a second's work, and the mean of a channel is then
# known to about a two-hundredth of the range.
LOOKED_AT = 512


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Per channel: what is subtracted from the values scaled to 0..1, and what they are divided by."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, train: Samples) -> Normalisation:
        """Mean and standard deviation of the training split. Of no other: the others stand for unseen data.

        Exact for samples in memory; of others a fixed random selection of `LOOKED_AT`.
        """
        assert train.max_value is not None, "only pixels are normalised"
        indices = spread(len(train), len(train) if train.in_memory else LOOKED_AT)
        counts = pixel_counts(train, indices)
        mean, std = moments(counts)
        scale = float(train.max_value)
        # A channel that never varies carries nothing; it must not be blown up by a division by 0.
        return cls(tuple((mean / scale).tolist()), tuple(np.where(std > 0, std / scale, 1.0).tolist()))


def normalisation(spec: NormalizationSpec, train: Samples) -> Normalisation:
    """What the spec asks for; UserError when its lists do not fit the images' channels."""
    if spec.source == "training-split":
        return Normalisation.of(train)
    given = spec.source == "given"
    mean = tuple(spec.mean or ()) if given else IMAGENET_MEAN
    std = tuple(spec.std or ()) if given else IMAGENET_STD
    channels = train.shape[0]
    if len(mean) != channels:
        raise UserError(
            f"dataset.normalization {spec.source} has {len(mean)} channels, the images have {channels}; "
            "give a mean and a std per channel, or use training-split"
        )
    return Normalisation(mean, std)


def pixel_counts(samples: Samples, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each raw value occurs in each channel: [channel, 256]. Exact, and a fraction of the cost of floats."""
    counts = np.zeros((samples.shape[0], 256), dtype=np.int64)
    for _, raw in read_chunks(samples, indices):
        counts += value_counts(raw.values)
    return counts


def value_counts(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each raw value occurs in each channel of these images: [channel, 256]."""
    return np.stack([np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(images.shape[1])])


def moments(counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the raw values of each row of counts."""
    values = np.arange(counts.shape[1], dtype=np.float64)
    total = counts.sum(axis=1)
    mean = counts @ values / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    return mean, np.sqrt(variance)
