"""What coordinator, shards and workers send one another. All are picklable, and none needs torch to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling_training.update.samples import EpochTally, Worker

Vector = NDArray[np.floating[Any]]
Row = Mapping[str, float | int]


@dataclass(frozen=True, slots=True)
class Part:
    """What one shard holds, by name and in order."""

    parameters: tuple[str, ...]
    buffers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """An accepted push, as told to all shards."""

    worker: Worker
    lease: int
    position: int  # number of pushes applied before it
    rate: float
    buffer_share: float


@dataclass(frozen=True, slots=True)
class ShardState:
    """All of a shard, at one position. Tensors are on the CPU."""

    position: int
    part: Part
    shapes: Mapping[str, tuple[int, ...]]  # of all its tensors, by name
    parameters: Vector
    buffers: Vector
    optimizer: Mapping[str, Mapping[str, Any]]  # by parameter: what torch keeps for it


@dataclass(frozen=True, slots=True)
class Group:
    """The workers that share the work, and on what terms."""

    workers: int
    samples: int  # of an epoch
    epochs: int
    share: int  # samples of a lease
    batch: int  # samples whose mean gradient the learning rate is meant for
    bound: int  # greatest staleness
    scaling: str | None  # see `staleness.scaling`
    ahead: int = 0  # leases that a worker is promised beyond the one that it holds


@dataclass(frozen=True, slots=True)
class Counts:
    """How far the server is."""

    version: int  # pushes applied
    samples: int  # applied
    loss_sum: float  # over the samples applied since the server started
    rate: float  # of a whole batch, at the last push
    staleness_mean: float
    staleness_max: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at one point between two pushes. ``shards`` are states, or what stands for them on the way."""

    ledger: Mapping[str, Any]
    shards: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Closing:
    """An epoch of which every sample was applied; to be validated by rank 0."""

    epoch: int  # from 0
    tally: EpochTally
    rate: float
    version: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Pushed:
    """A gradient was applied."""

    staleness: int
    counts: Counts
