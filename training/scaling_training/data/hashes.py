"""Hashes by which equal and nearly equal pictures are found.

The exact hash is BLAKE2b of a sample's values. The perceptual one is the difference hash: the picture is brought
down to 9 x 8 grey values by means over areas, and each of the 64 bits says whether a value is below its right
neighbour (Krawetz 2013, "Kind of Like That"). Changes of size, compression and brightness leave most of the bits.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling_training.data.normalise import spread
from scaling_training.data.samples import Samples

_ROWS, _COLUMNS = 8, 9


@dataclass(frozen=True, slots=True)
class Hashes:
    """Of some samples of a split; no picture can be made from them again."""

    samples: int  # in the split
    exact: tuple[bytes, ...]
    perceptual: NDArray[np.uint64]
    names: tuple[str, ...]  # of what was hashed


def hashes(samples: Samples, most: int) -> Hashes:
    """Hashes of at most ``most`` samples, evenly spaced over the split; what cannot be read is left out."""
    indices = spread(len(samples), most)
    raw = samples.read(indices)
    kept = np.array([position for position in range(len(indices)) if position not in raw.unreadable], dtype=np.int64)
    values = raw.values if len(kept) == len(indices) else raw.values[kept]
    return hashes_of(samples, indices[kept], values)


def hashes_of(samples: Samples, indices: NDArray[np.int64], values: NDArray[np.generic]) -> Hashes:
    """Hashes of samples that were read already."""
    exact = tuple(hashlib.blake2b(value.tobytes(), digest_size=16).digest() for value in values)
    is_image = samples.max_value is not None
    perceptual = difference_hash(shrunk(values, _ROWS, _COLUMNS)) if is_image else np.zeros(len(values), np.uint64)
    return Hashes(len(samples), exact, perceptual, tuple(samples.name_of(index) for index in indices.tolist()))


def shrunk(images: NDArray[np.generic], rows: int, columns: int) -> NDArray[np.float32]:
    """Grey pictures [sample, rows, columns]: the mean over the channels and over each area of pixels."""
    grey = images.astype(np.float32).mean(axis=1)
    small: NDArray[np.float32] = _areas(rows, grey.shape[1]) @ grey @ _areas(columns, grey.shape[2]).T
    return small


def difference_hash(small: NDArray[np.float32]) -> NDArray[np.uint64]:
    """64 bits for each picture of 8 x 9."""
    bits = (small[:, :, :-1] < small[:, :, 1:]).reshape(len(small), -1)
    packed: NDArray[np.uint64] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return packed


def _areas(parts: int, length: int) -> NDArray[np.float32]:
    """[parts, length]: how much of each pixel lies in each part, over the part's size."""
    edges = np.arange(parts + 1) * (length / parts)
    pixel = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights: NDArray[np.float32] = (np.clip(overlap, 0.0, None) / (length / parts)).astype(np.float32)
    return weights
