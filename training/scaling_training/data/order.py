"""In what order the training samples are consumed, and which process takes which.

The order of an epoch is a permutation drawn from (seed, epoch). How far a run is, is one number: the cursor,
samples consumed by all processes since the run began. A batch is the next stretch of the order, never across
an epoch's end; each process takes one contiguous slice of it. So neither a resume nor another number of
processes repeats or skips a sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling_training.data.random import Purpose, permutation


def rank_slice(count: int, rank: int, size: int) -> slice:
    """The part of ``count`` samples that a rank takes. Sizes differ by at most 1; rank 0 never has fewer."""
    share, extra = divmod(count, size)
    start = rank * share + min(rank, extra)
    return slice(start, start + share + (rank < extra))


@dataclass(frozen=True, slots=True)
class GlobalBatch:
    """One step's samples over all processes."""

    epoch: int
    indices: NDArray[np.int64]  # into the training split
    end: int  # the cursor after it
    ends_epoch: bool


class DataOrder:
    """The order of a run: a function of seed, samples in the split and samples per batch."""

    def __init__(self, *, seed: int, samples: int, batch_size: int) -> None:
        self._seed = seed
        self._samples = samples
        self._batch_size = batch_size
        self._epoch = -1
        self._indices: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, a smaller last one included."""
        return -(-self._samples // self._batch_size)

    def batch_at(self, cursor: int) -> GlobalBatch:
        """The batch that starts at this cursor."""
        epoch, offset = divmod(cursor, self._samples)
        if epoch != self._epoch:
            self._indices = permutation(self._seed, Purpose.ORDER, epoch, self._samples)
            self._epoch = epoch
        indices = self._indices[offset : offset + self._batch_size]
        end = cursor + len(indices)
        return GlobalBatch(epoch, indices, end, ends_epoch=end % self._samples == 0)
