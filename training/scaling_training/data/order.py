"""In what order the training samples are consumed, and which process takes which.

The order of an epoch is a permutation drawn from (seed, epoch). How far a run is, is one number: the cursor,
samples consumed by all processes since the run began. A batch is the next stretch of the order, never across
an epoch's end; each process takes one contiguous slice of it. So neither a resume nor another number of
processes repeats or skips a sample.

Balanced sampling draws each class equally often instead (the classes' shares differ by at most one sample). A
class smaller than its share is gone through again and again; its last, incomplete round, and the selection of a
larger class, are drawn anew each epoch. A sample's k-th occurrence (from 0) in an epoch has the index
``sample + k * samples``, so that it is augmented anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling_training.data.random import Purpose, permutation, words


def rank_slice(count: int, rank: int, size: int) -> slice:
    """The part of ``count`` samples that a rank takes. Sizes differ by at most 1; rank 0 never has fewer."""
    share, extra = divmod(count, size)
    start = rank * share + min(rank, extra)
    return slice(start, start + share + (rank < extra))


def natural_order(seed: int, epoch: int, samples: int) -> NDArray[np.int64]:
    """Each sample once."""
    return permutation(seed, Purpose.ORDER, epoch, samples)


def balanced_order(seed: int, epoch: int, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """As many indices as samples, each class equally often; see the module for what an index means."""
    samples = len(labels)
    drawn = words(seed, Purpose.BALANCE, epoch, samples)
    classes = np.unique(labels)
    share, extra = divmod(samples, len(classes))
    picked: list[NDArray[np.int64]] = []
    for number, label in enumerate(classes):
        # Who gets one more goes round with the epochs.
        wanted = share + ((number - epoch * extra) % len(classes) < extra)
        members = np.flatnonzero(labels == label)
        rounds, rest = divmod(wanted, len(members))
        picked += [members + samples * occurrence for occurrence in range(rounds)]
        picked.append(members[np.argsort(drawn[members], kind="stable")[:rest]] + samples * rounds)
    return np.concatenate(picked)[natural_order(seed, epoch, samples)]


@dataclass(frozen=True, slots=True)
class GlobalBatch:
    """One step's samples over all processes."""

    epoch: int
    indices: NDArray[np.int64]  # into the training split; modulo its length under balanced sampling
    end: int  # the cursor after it
    ends_epoch: bool


@dataclass(frozen=True, slots=True)
class Share:
    """One micro-batch of one process."""

    indices: NDArray[np.int64]  # into the training split; never empty
    weight: float  # 1, or 0 for a sample that only keeps a process without one of its own in the collectives


def shares(batch: GlobalBatch, *, rank: int, size: int, pieces: int = 1) -> list[Share]:
    """What ``rank`` of ``size`` takes of a batch, in ``pieces`` micro-batches: as many on every rank.

    No more than rank 0, whose share is the largest, has samples. Every rank must take part in every collective, so one
    with a sample less than micro-batches takes one more with weight 0; never rank 0, and hence never all ranks.
    """
    pieces = min(pieces, -(-len(batch.indices) // size))
    mine = batch.indices[rank_slice(len(batch.indices), rank, size)]
    parts = [mine[rank_slice(len(mine), piece, pieces)] for piece in range(pieces)]
    return [Share(part, 1.0) if len(part) else Share(batch.indices[:1], 0.0) for part in parts]


class DataOrder:
    """The order of a run: a function of seed, samples in the split and samples per batch.

    With ``balanced`` labels, of those as well.
    """

    def __init__(self, *, seed: int, samples: int, batch_size: int, balanced: NDArray[np.int64] | None = None) -> None:
        self._seed = seed
        self._samples = samples
        self._batch_size = batch_size
        self._balanced = balanced
        self._kept: dict[int, NDArray[np.int64]] = {}

    @property
    def batch_size(self) -> int:
        """Samples of a batch; an epoch's last one may have fewer."""
        return self._batch_size

    def indices(self, epoch: int) -> NDArray[np.int64]:
        """The whole order of an epoch.

        Those of two epochs are kept: before an epoch ends, who reads ahead asks for the next in turn with it.
        """
        if epoch not in self._kept:
            while len(self._kept) > 1:
                del self._kept[min(self._kept)]
            if self._balanced is None:
                self._kept[epoch] = natural_order(self._seed, epoch, self._samples)
            else:
                self._kept[epoch] = balanced_order(self._seed, epoch, self._balanced)
        return self._kept[epoch]

    def batch_at(self, cursor: int) -> GlobalBatch:
        """The batch that starts at this cursor."""
        epoch, offset = divmod(cursor, self._samples)
        indices = self.indices(epoch)[offset : offset + self._batch_size]
        end = cursor + len(indices)
        return GlobalBatch(epoch, indices, end, ends_epoch=end % self._samples == 0)
