"""The same picture in two splits: what is measured on one was then learned by heart from the other.

Equal samples are found by exact hashes, nearly equal ones by perceptual hashes of at most `NEAR_BITS` different
bits. Pictures of some kinds (digits on black, say) look alike to the perceptual hash anyway; so it is first tried on
training pictures of different classes, and where it takes more than `MOST_ALIKE` of those for the same, it is not
used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling_training.data.hashes import Hashes

NEAR_BITS = 3
MOST_ALIKE = 0.01
_NAMED = 20
_PAIRS = (("train", "validation"), ("train", "test"), ("validation", "test"))


@dataclass(frozen=True, slots=True)
class Shared:
    """Samples of ``second`` that are in ``first`` too."""

    first: str
    second: str
    exact: int
    near: int | None  # nearly equal ones beside those; None when the perceptual hash cannot tell pictures apart
    examples: tuple[tuple[str, str], ...]  # the sample in ``first``, the one in ``second``


@dataclass(frozen=True, slots=True)
class Leakage:
    """What the splits share, and how many samples of each were compared."""

    compared: Mapping[str, int]
    of: Mapping[str, int]
    shared: tuple[Shared, ...]  # pairs of splits that share something


def leakage(splits: Mapping[str, Hashes], *, labels: Mapping[str, int]) -> Leakage:
    """Compare all pairs of splits. ``labels`` are the classes of training samples by name."""
    telling = _tells_apart(splits["train"], labels)
    found = (_shared(first, second, splits[first], splits[second], telling) for first, second in _PAIRS)
    return Leakage(
        compared={name: len(hashes.exact) for name, hashes in splits.items()},
        of={name: hashes.samples for name, hashes in splits.items()},
        shared=tuple(shared for shared in found if shared.exact or shared.near),
    )


def _shared(first: str, second: str, ours: Hashes, theirs: Hashes, telling: bool) -> Shared:
    by_hash = {digest: name for name, digest in ours.exact.items()}
    equal = [(by_hash[digest], name) for name, digest in theirs.exact.items() if digest in by_hash]
    near = _near(ours, theirs, without={name for _, name in equal}) if telling else None
    examples = tuple((*equal, *(near or ()))[:_NAMED])
    return Shared(first, second, len(equal), None if near is None else len(near), examples)


def _near(ours: Hashes, theirs: Hashes, *, without: set[str]) -> list[tuple[str, str]]:
    our_names, our_hashes = _columns(ours.perceptual)
    their_names, their_hashes = _columns(theirs.perceptual)
    if not our_names:
        return []
    found = []
    for name, value in zip(their_names, their_hashes, strict=True):
        if name not in without:
            distance = np.bitwise_count(our_hashes ^ value)
            nearest = int(distance.argmin())
            if distance[nearest] <= NEAR_BITS:
                found.append((our_names[nearest], name))
    return found


def _tells_apart(train: Hashes, labels: Mapping[str, int]) -> bool:
    names, values = _columns(train.perceptual)
    if not names:
        return False
    classes = np.array([labels[name] for name in names])
    alike = 0
    for value, label in zip(values, classes, strict=True):
        others = classes != label
        alike += bool((np.bitwise_count(values[others] ^ value) <= NEAR_BITS).any())
    return alike <= MOST_ALIKE * len(names)


def _columns(hashes: Mapping[str, int]) -> tuple[list[str], NDArray[np.uint64]]:
    return list(hashes), np.array(list(hashes.values()), dtype=np.uint64)
