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
    FLIP = 4
    CROP = 5
    MIX = 6
    KEY = 7
    BALANCE = 8
    SYNTHETIC = 9
    LOOK = 10


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
    return fractions(words(seed, purpose, position, count))


def fractions(drawn: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Words as numbers in [0, 1): their upper 53 bits."""
    return np.multiply((drawn >> np.uint64(11)).astype(np.float64), 2.0**-53, dtype=np.float64)


class SampleWords:
    """``width`` words for each sample of an epoch: a function of (seed, purpose, epoch, sample).

    An index at or above ``samples`` is a later occurrence of a sample in the same epoch (balanced sampling):
    sample ``index % samples`` for the ``index // samples``-th time, which has a stream of its own. The words of
    an epoch are drawn at once, when the first of them is asked for; that is what a resume costs here.
    """

    def __init__(self, seed: int, purpose: Purpose, *, samples: int, width: int) -> None:
        self._seed = seed
        self._purpose = purpose
        self._samples = samples
        self._width = width
        self._epoch = -1
        self._tables: dict[int, NDArray[np.uint64]] = {}

    def of(self, epoch: int, indices: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The words of these samples in this epoch: [index, width]."""
        if epoch != self._epoch:
            self._tables.clear()
            self._epoch = epoch
        if not len(indices) or int(indices.max()) < self._samples:
            return self._table(0)[indices]
        found = np.empty((len(indices), self._width), dtype=np.uint64)
        occurrences, samples = np.divmod(indices, self._samples)
        for occurrence in np.unique(occurrences):
            chosen = occurrences == occurrence
            found[chosen] = self._table(int(occurrence))[samples[chosen]]
        return found

    def _table(self, occurrence: int) -> NDArray[np.uint64]:
        table = self._tables.get(occurrence)
        if table is None:
            position = self._epoch | occurrence << 32
            drawn = words(self._seed, self._purpose, position, self._samples * self._width)
            table = self._tables[occurrence] = drawn.reshape(self._samples, self._width)
        return table
