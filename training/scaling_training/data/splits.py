"""Dividing a data set so that each part has each class in the same proportion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling_training.data.random import Purpose, permutation
from scaling_training.errors import UserError


@dataclass(frozen=True, slots=True)
class Fractions:
    """Shares of the three parts; they add up to 1. A part of 0 stays empty."""

    train: float
    validation: float
    test: float

    def __post_init__(self) -> None:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError(f"{self} does not add up to 1")


def stratified_split(
    labels: NDArray[np.int64], fractions: Fractions, *, seed: int, class_names: Sequence[str] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Indices of train, validation and test, each sorted, each index in exactly one.

    Of each class validation and test get their share, rounded to the nearest sample, and train the rest. A
    function of labels, fractions and seed. UserError when a class is too small to be in every part.
    """
    parts: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
    names = ("training", "validation", "test")
    shares = (fractions.train, fractions.validation, fractions.test)
    wanted = [name for name, share in zip(names, shares, strict=True) if share]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        shuffled = members[permutation(seed, Purpose.SPLIT, int(label), len(members))]
        validation = round(len(members) * fractions.validation)
        test = round(len(members) * fractions.test)
        pieces = np.split(shuffled, [len(members) - validation - test, len(members) - test])
        for part, piece, share in zip(parts, pieces, shares, strict=True):
            if share and not len(piece):
                called = class_names[int(label)] if class_names and 0 <= label < len(class_names) else int(label)
                raise UserError(
                    f"dataset: class {called} has {len(members)} samples, too few to be in {', '.join(wanted[:-1])} "
                    f"and {wanted[-1]}; add some, leave the class out, or raise the shares of dataset.split"
                )
            part.append(piece)
    train, validation_part, test_part = (np.sort(np.concatenate(part)) for part in parts)
    return train, validation_part, test_part
