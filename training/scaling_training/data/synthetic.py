"""synthetic: images that are made, for trying out a job and for measuring without data.

Each class has a smooth pattern of its own: a coarse grid of random colours, enlarged. A sample is its class's
pattern, rolled by up to an eighth of a side along each axis and with noise laid over, so it can be learned, but not
by looking at one pixel. All of it is a function of the fields and of ``split.seed``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaling_api.spec import DatasetSpec
from scaling_training.data.arrays import ImageArrays
from scaling_training.data.dataset import Dataset, divided
from scaling_training.data.random import Purpose, uniform, words
from scaling_training.errors import UserError

_GRID = 4  # colours a side
_NOISE = 96  # raw values, from the darkest to the brightest noise
_MOST_BYTES = 4 * 2**30
_PATTERNS, _ROLLS, _PIXELS = 0, 1, 2  # positions in the stream


def open_synthetic(spec: DatasetSpec) -> Dataset:
    """The data set of the spec; UserError when it would not fit into memory or a class would have too few."""
    samples, classes = spec.samples or 2000, spec.classes or 10
    size, channels = spec.image_size or 32, spec.channels or 3
    if samples * channels * size * size > _MOST_BYTES:
        raise UserError(
            f"dataset.samples {samples} of {channels}x{size}x{size} would take more than 4 GiB of memory; "
            "lower samples or imageSize"
        )
    images, labels = make(samples, classes, size=size, channels=channels, seed=spec.split.seed if spec.split else 0)
    return divided(
        spec,
        name="synthetic",
        class_names=tuple(f"class-{number:03d}" for number in range(classes)),
        parts={"train": ImageArrays(images, labels, 255)},
    )


def make(
    samples: int, classes: int, *, size: int, channels: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images [sample, channel, size, size] and their classes, which take turns."""
    colours = uniform(seed, Purpose.SYNTHETIC, _PATTERNS, classes * channels * _GRID * _GRID)
    patterns = _enlarged(colours.reshape(classes, channels, _GRID, _GRID), size) * (255 - _NOISE)
    labels = np.arange(samples, dtype=np.int64) % classes
    reach = max(1, size // 8)
    rolls = (uniform(seed, Purpose.SYNTHETIC, _ROLLS, 2 * samples).reshape(2, samples) * (2 * reach + 1)).astype(
        np.int64
    )
    place = np.arange(size)
    rows = (place + rolls[0][:, None]) % size
    columns = (place + rolls[1][:, None]) % size
    pixels = patterns.astype(np.uint8).transpose(0, 2, 3, 1)
    rolled = pixels[labels[:, None, None], rows[:, :, None], columns[:, None, :]].transpose(0, 3, 1, 2)
    drawn = words(seed, Purpose.SYNTHETIC, _PIXELS, -(-rolled.size // 8)).view(np.uint8)[: rolled.size]
    noise = (drawn.reshape(rolled.shape).astype(np.uint16) * _NOISE >> 8).astype(np.uint8)
    return np.ascontiguousarray(rolled) + noise, labels


def _enlarged(grid: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Bilinear and periodic, so that a rolled pattern has no seam."""
    place = np.arange(size) * (_GRID / size)
    low = place.astype(np.int64)
    share = place - low
    high = (low + 1) % _GRID
    tall = grid[:, :, low] * (1 - share)[:, None] + grid[:, :, high] * share[:, None]
    enlarged: NDArray[np.float64] = tall[..., low] * (1 - share) + tall[..., high] * share
    return enlarged
