"""Random numbers that are functions of what they are for, not of what was drawn before.

Each use has its own Philox stream, keyed by seed, purpose and position (an epoch). Only raw 64-bit words are
taken from it: numpy guarantees those across versions, which it does not for shuffles and distributions.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Purpose(IntEnum):
    """What a stream is for; a number is never given to another purpose."""

    SPLIT = 1
    ORDER = 2
    AUGMENTATION = 3


def words(seed: int, purpose: Purpose, position: int, count: int) -> NDArray[np.uint64]:
    """The first ``count`` 64-bit words of the stream."""
    key = np.array([seed, (int(purpose) << 56) | position], dtype=np.uint64)
    drawn: NDArray[np.uint64] = np.random.Philox(key=key).random_raw(count)
    return drawn


def permutation(seed: int, purpose: Purpose, position: int, count: int) -> NDArray[np.int64]:
    """A permutation of 0..count-1."""
    return np.argsort(words(seed, purpose, position, count), kind="stable")


def uniform(seed: int, purpose: Purpose, position: int, count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1)."""
    fractions = (words(seed, purpose, position, count) >> np.uint64(11)).astype(np.float64)
    return np.multiply(fractions, 2.0**-53, dtype=np.float64)
