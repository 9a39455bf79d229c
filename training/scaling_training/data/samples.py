"""What a part of a data set offers to feeds and to the analysis, wherever its samples lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scaling_training.errors import UserError


class UnreadableError(Exception):
    """A sample cannot be read; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Samples as they were read."""

    values: NDArray[Any]  # images: uint8, [sample, channel, height, width]
    # What could not be read: name and reason, by position in ``values``, which holds a replacement there.
    unreadable: Mapping[int, tuple[str, str]] = field(default_factory=dict)


class Samples(Protocol):
    """The samples of one split, in an order of their own."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each sample; where there are no classes, the same for all."""

    @property
    def targets(self) -> NDArray[Any]:
        """What is to be learned of each sample: its class, labels or numbers (see `data.targets`)."""

    @property
    def max_value(self) -> int | None:
        """Raw pixels run from 0 (background) to this; None: the values are no pixels and are taken as they are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample; of an image: channels, height, width."""

    @property
    def in_memory(self) -> bool:
        """Whether reading costs next to nothing, so that worker processes would only delay it."""

    def __len__(self) -> int: ...

    def take(self, indices: NDArray[np.int64]) -> Samples:
        """The samples at these indices, in this order."""

    def read(self, indices: NDArray[np.int64], crops: NDArray[np.float64] | None = None) -> Raw:
        """The samples at these indices.

        ``crops``, four draws in [0, 1) per index, asks for a random-resized crop; only for samples that are not
        in memory, which can cut it out of the full picture. A sample that cannot be read is replaced by the next
        readable one of its class, which is a function of the split alone.
        """

    def name_of(self, index: int) -> str:
        """How a person would call this sample: a file, or its number."""


def read_each(
    samples: Samples,
    indices: NDArray[np.int64],
    one: Callable[[int, int], NDArray[Any]],
    *,
    into: NDArray[Any],
) -> Raw:
    """Fill ``into`` by ``one(position, index)``, which may raise UnreadableError, replacing what cannot be read.

    UserError when no sample of a class can be read.
    """
    unreadable: dict[int, tuple[str, str]] = {}
    for position, index in enumerate(indices.tolist()):
        try:
            into[position] = one(position, index)
        except UnreadableError as error:
            unreadable[position] = (samples.name_of(index), str(error))
            into[position] = _replacement(samples, index, partial(one, position), str(error))
    return Raw(into, unreadable)


def _replacement(samples: Samples, index: int, one: Callable[[int], NDArray[Any]], reason: str) -> NDArray[Any]:
    members = np.flatnonzero(samples.labels == samples.labels[index])
    place = int(np.searchsorted(members, index))
    for other in np.roll(members, -place - 1)[:-1].tolist():
        try:
            return one(other)
        except UnreadableError:
            continue
    raise UserError(
        f"dataset: none of the {len(members)} samples of the class of {samples.name_of(index)} can be read (that one: "
        f"{reason}); mend them or remove the class"
    )
