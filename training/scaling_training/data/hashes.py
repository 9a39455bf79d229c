"""Hashes by which equal and nearly equal pictures are found.

The exact hash is BLAKE2b of a file's bytes, or of a sample's values when it is in memory. The perceptual one is the
difference hash: the picture is brought down to 9 x 8 grey values by means over areas, and each of the 64 bits says
whether a value is below its right neighbour (Krawetz 2013, "Kind of Like That"). Changes of size, compression and
brightness leave most of the bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling_training.data.files import ImageFiles
from scaling_training.data.reading import read_chunks, spread
from scaling_training.data.samples import Samples

# A quarter of a second to read from memory and hash.
HASHED_BYTES = 256 * 2**20
_ROWS, _COLUMNS = 8, 9


@dataclass(frozen=True, slots=True)
class Hashes:
    """Of samples of a split; no picture can be made from them again."""

    samples: int  # in the split
    exact: Mapping[str, bytes]  # by the sample's name
    perceptual: Mapping[str, int]


def hashes(samples: Samples, most: int) -> Hashes:
    """Exact hashes of all samples, or of as many as `HASHED_BYTES` hold; perceptual ones of at most ``most``.

    Both a fixed random selection. What cannot be read is left out.
    """
    perceptual: dict[str, int] = {}
    if samples.max_value is not None:
        for indices, raw in read_chunks(samples, spread(len(samples), most)):
            found = difference_hashes(raw.values)
            perceptual |= {
                samples.name_of(index): int(found[position])
                for position, index in enumerate(indices.tolist())
                if position not in raw.unreadable
            }
    return Hashes(len(samples), exact_hashes(samples, most), perceptual)


def exact_hashes(samples: Samples, most: int) -> dict[str, bytes]:
    """See `hashes`; of samples that are neither files nor in memory at most ``most``."""
    if isinstance(samples, ImageFiles):
        total = int(samples.sizes.sum())
        count = len(samples) if total <= HASHED_BYTES else max(1, len(samples) * HASHED_BYTES // total)
        return dict(_of_files(samples, spread(len(samples), count)))
    if samples.in_memory:
        size = max(1, samples.read(np.arange(min(1, len(samples)))).values.nbytes)
        most = HASHED_BYTES // size
    found: dict[str, bytes] = {}
    for indices, raw in read_chunks(samples, spread(len(samples), most)):
        for position, index in enumerate(indices.tolist()):
            if position not in raw.unreadable:
                found[samples.name_of(index)] = _digest(np.ascontiguousarray(raw.values[position]).tobytes())
    return found


def _of_files(samples: ImageFiles, indices: NDArray[np.int64]) -> list[tuple[str, bytes]]:
    found = []
    for index in indices.tolist():
        try:
            data = samples.bytes_of(index)
        except OSError:
            continue
        if data:
            found.append((samples.name_of(index), _digest(data)))
    return found


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def difference_hashes(images: NDArray[np.generic]) -> NDArray[np.uint64]:
    """The perceptual hash of each picture [sample, channel, height, width]."""
    small = shrunk(images, _ROWS, _COLUMNS)
    bits = (small[:, :, :-1] < small[:, :, 1:]).reshape(len(small), -1)
    packed: NDArray[np.uint64] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return packed


def shrunk(images: NDArray[np.generic], rows: int, columns: int) -> NDArray[np.float32]:
    """Grey pictures [sample, rows, columns]: the mean over the channels and over each area of pixels."""
    grey = images.mean(axis=1, dtype=np.float32)
    small: NDArray[np.float32] = _areas(rows, grey.shape[1]) @ grey @ _areas(columns, grey.shape[2]).T
    return small


def _areas(parts: int, length: int) -> NDArray[np.float32]:
    """[parts, length]: how much of each pixel lies in each part, over the part's size."""
    edges = np.arange(parts + 1) * (length / parts)
    pixel = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights: NDArray[np.float32] = (np.clip(overlap, 0.0, None) / (length / parts)).astype(np.float32)
    return weights
