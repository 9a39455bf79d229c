"""What is to be learned of a sample: its class, which labels are true of it, or numbers.

The kind follows from the values themselves: whole numbers, one for each sample, are classes; rows of 0 and 1 are
labels; floats are numbers to predict.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scaling_training.errors import UserError

log = logging.getLogger("scaling_training.data")

Kind = Literal["classes", "labels", "numbers"]

FORMS = (
    "whole numbers from 0 for classes [sample], 0 and 1 for labels [sample, label], or floats for numbers to predict "
    "[sample] or [sample, number]"
)
# Class numbers are positions in a list of names.
_MOST_CLASSES = 1_000_000
# Floats that look like so many classes are asked about.
_FEW = 20


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets of one split."""

    kind: Kind
    values: NDArray[Any]  # classes: int64 [sample]; labels, of 0 and 1, and numbers: float32 [sample, …]

    @property
    def width(self) -> int:
        """How many labels or numbers a sample has; 1 for classes."""
        return 1 if self.values.ndim == 1 else int(self.values.shape[1])

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each sample, all the same one where there are no classes."""
        return self.values if self.kind == "classes" else np.zeros(len(self.values), dtype=np.int64)

    @property
    def learned(self) -> NDArray[np.float32] | None:
        """What is to be learned in the place of a class."""
        return None if self.kind == "classes" else self.values


def read_targets(given: Any, *, where: str) -> Targets:
    """The targets in values of any kind; UserError, beginning with ``where``, for what are none."""
    try:
        values = np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise UserError(f"{where}: the targets differ in shape; write {FORMS}") from error
    if values.ndim == 1 and values.dtype.kind in "uib":
        if len(values) and int(values.max()) >= _MOST_CLASSES:
            raise UserError(
                f"{where}: the largest class number is {values.max()}; number the classes from 0, or give floats for "
                "numbers to predict"
            )
        return Targets("classes", values.astype(np.int64))
    numeric = values.dtype.kind in "uibf"
    if numeric and values.ndim == 2 and values.shape[1] > 1 and bool(np.isin(values, (0, 1)).all()):
        return Targets("labels", values.astype(np.float32))
    if values.dtype.kind == "f" and values.ndim in (1, 2) and values.size:
        _look_at_numbers(values, where)
        return Targets("numbers", values.astype(np.float32))
    raise UserError(f"{where}: the targets are {like(values)}; write {FORMS}")


def _look_at_numbers(values: NDArray[Any], where: str) -> None:
    odd = np.argwhere(~np.isfinite(values))
    if len(odd):
        raise UserError(f"{where}: the target of sample {odd[0][0]} is {values[tuple(odd[0])]}; leave the sample out")
    if values.ndim == 1 and values.min() == 0 and values.max() < _FEW and bool((values == np.rint(values)).all()):
        log.warning(
            "%s: the targets are floats, so they are taken for numbers to predict; if %g to %g are classes, give "
            "whole numbers",
            where,
            values.min(),
            values.max(),
        )


def class_names(parts: Mapping[str, Targets], given: Any, *, where: str) -> tuple[str, ...]:
    """The names of the classes or labels: ``given``, or their numbers; none of numbers to predict.

    UserError for what are no names, for two that are equal, and for too many or too few of them.
    """
    first = next(iter(parts.values()))
    unlike = {name: f"{part.kind} of width {part.width}" for name, part in parts.items()}
    if len(set(unlike.values())) > 1:
        told = ", ".join(f"{what} in {name}" for name, what in unlike.items())
        raise UserError(f"{where}: the parts' targets are of different kinds: {told}")
    if first.kind == "numbers":
        if given is not None:
            raise UserError(
                f"{where}: classes goes with whole numbers, and the targets are {like(first.values)}; give the numbers "
                "of the classes, or leave classes out for numbers to predict"
            )
        return ()
    if given is None:
        count = first.width
        if first.kind == "classes":
            count = max(int(part.values.max(initial=-1)) for part in parts.values()) + 1
        return tuple(str(number) for number in range(count))
    if isinstance(given, (str, bytes)) or not hasattr(given, "__iter__"):
        raise UserError(
            f"{where}: classes is {given!r:.60}; it must be a list of names, as many as there are {first.kind}"
        )
    names = tuple(str(name) for name in given)
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise UserError(f"{where}: classes names {', '.join(twice[:5])} more than once")
    if first.kind == "labels" and len(names) != first.width:
        raise UserError(f"{where}: classes has {len(names)} names, and the targets have {first.width} columns")
    return names


def like(values: NDArray[Any]) -> str:
    """Type and shape, in words."""
    return f"{values.dtype}{list(values.shape)}"
