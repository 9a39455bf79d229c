"""Samples of a map-style data set of the user's: anything with a length whose items are (input, target)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling_training.data.draws import steady_draws
from scaling_training.data.reading import spread
from scaling_training.data.samples import Raw, UnreadableError, read_each
from scaling_training.data.targets import Targets, read_targets
from scaling_training.errors import UserError
from scaling_training.factory import told, user_code

# Items have to be computed, so these many stand for all in a fingerprint.
FINGERPRINTED = 256


@dataclass(frozen=True, slots=True)
class Items:
    """A map-style data set, or some of its items."""

    items: Any
    labels: NDArray[np.int64]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    max_value: int | None
    chosen: NDArray[np.int64] | None = None  # which items; None: all
    learned: NDArray[np.float32] | None = None  # labels or numbers of each sample; None: its class

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def targets(self) -> NDArray[Any]:
        """What is to be learned of each sample."""
        return self.labels if self.learned is None else self.learned

    @property
    def in_memory(self) -> bool:
        """Nobody knows what an item costs."""
        return False

    def take(self, indices: NDArray[np.int64]) -> Items:
        """The samples at these indices, in this order."""
        chosen = indices if self.chosen is None else self.chosen[indices]
        learned = None if self.learned is None else self.learned[indices]
        return Items(self.items, self.labels[indices], self.shape, self.dtype, self.max_value, chosen, learned)

    def read(self, indices: NDArray[np.int64], crops: NDArray[np.float64] | None = None) -> Raw:
        """The items, see `Samples.read`. A random-resized crop is cut from the item itself."""
        into = np.empty((len(indices), *self.shape), dtype=self.dtype)
        return read_each(self, indices, lambda position, index: self._one(index), into=into)

    def _one(self, index: int) -> NDArray[Any]:
        number = index if self.chosen is None else int(self.chosen[index])
        try:
            value, target = self.items[number]
            array, before = as_array(value), self.targets[index]
            same = np.array_equal(np.asarray(target, dtype=before.dtype), before)
        except Exception as error:
            raise UnreadableError(f"{type(error).__name__}: {error}") from error
        if array.shape != self.shape:
            raise UnreadableError(f"its shape is {array.shape}, the first item's is {self.shape}")
        is_image = array.dtype == np.uint8 and array.ndim == 3
        if is_image != (self.max_value is not None) or not np.can_cast(array.dtype, self.dtype, "same_kind"):
            raise UnreadableError(f"its values are {array.dtype}, the first item's were taken as {self.dtype}")
        if not same:
            raise UserError(f"dataset.factory: item {number} has the target {target} now and had {before} before")
        return _finite(array)

    def name_of(self, index: int) -> str:
        """Its number."""
        return f"item {index if self.chosen is None else self.chosen[index]}"

    def content(self) -> bytes | None:
        """The values of some items, for a fingerprint; None when they are others each time that they are read."""
        first, second = self._content_once(), self._content_once()
        return first if first == second else None

    def _content_once(self) -> bytes:
        with steady_draws():
            return self.read(spread(len(self), FINGERPRINTED)).values.tobytes()


def open_items(items: Any, *, where: str) -> tuple[Items, Targets]:
    """The data set with its targets: its attribute ``targets``, else all items are read to learn them.

    UserError, beginning with ``where``, for an item that is none or cannot be read, and for targets that are none.
    """
    first, target = _item(items, 0, where)
    with user_code(where):
        known = getattr(items, "targets", None)
        told = known is not None and len(known) == len(items)
        given = known if told else [target, *(_item(items, index, where)[1] for index in range(1, len(items)))]
        values, max_value = as_trained(as_array(first), dimensions=3)
        targets = read_targets(given, where=where)
    shape = tuple(values.shape)
    return Items(items, targets.labels, shape, values.dtype, max_value, learned=targets.learned), targets


def _item(items: Any, index: int, where: str) -> tuple[Any, Any]:
    try:
        value, target = items[index]
    except Exception as error:
        raise UserError(f"{where}: item {index} is not (input, target), or cannot be read: it {told(error)}") from error
    return value, target


def as_array(value: Any) -> NDArray[Any]:
    """An input as an array; a PIL image as channel, height, width, as people see it."""
    if not hasattr(value, "getbands"):
        return np.asarray(value)
    from scaling_training.data.decode import seen

    array = np.asarray(seen(value))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def as_trained(array: NDArray[Any], *, dimensions: int) -> tuple[NDArray[Any], int | None]:
    """Images as they are, other numbers as float32 or int64; and what raw pixels run up to, None for other numbers."""
    if array.dtype.kind not in "uifb":
        raise UserError(f"the inputs are {array.dtype}, and no numbers")
    if array.dtype == np.uint8 and array.ndim == dimensions:
        return np.ascontiguousarray(array), 255
    with np.errstate(over="ignore"):  # what becomes infinite is said
        return array.astype(np.float32 if array.dtype.kind == "f" else np.int64), None


def _finite(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise UnreadableError("it holds NaN or infinite values")
    return array
