"""Data from a function of the user's; docs/data.md says what it may return.

A part is a pair of arrays (inputs, labels), or a map-style data set: anything with a length whose items are
(input, label). uint8 inputs of three dimensions (channel, height, width) are images; any other numbers are trained
on as they are, floats as float32 and whole numbers as int64 (token ids).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling_api.spec import DatasetSpec
from scaling_training import factory
from scaling_training.data.arrays import ImageArrays
from scaling_training.data.dataset import Dataset, divided
from scaling_training.data.reading import spread
from scaling_training.data.samples import Raw, Samples, UnreadableError, read_each
from scaling_training.errors import UserError

FIELD = "dataset.factory"
# Of a data set whose items have to be computed, so many stand for all in the fingerprint.
_FINGERPRINTED = 256
_PARTS = ("train", "validation", "test")


def open_factory(spec: DatasetSpec) -> Dataset:
    """What the spec's factory returns; UserError when it raises or returns something else than documented."""
    assert spec.factory is not None, "a rule of the spec"
    arguments = spec.arguments.model_dump() if spec.arguments else {}
    returned = factory.call(spec.factory, field=FIELD, **arguments)
    given = returned if isinstance(returned, Mapping) else {"train": returned}
    unknown = sorted(str(key) for key in set(given) - {*_PARTS, "classes"})
    if unknown or "train" not in given:
        raise _wrong(spec, f"a mapping with {', '.join(map(str, given)) or 'nothing'}")
    parts: dict[str, Samples] = {name: _part(spec, name, given[name]) for name in _PARTS if name in given}
    shapes = {samples.shape for samples in parts.values()}
    if len(shapes) > 1:
        raise UserError(f"{FIELD} {spec.factory}: the parts' samples differ in shape: {sorted(shapes)}")
    classes = given.get("classes")
    if classes is None:
        highest = max((int(samples.labels.max(initial=-1)) for samples in parts.values()), default=-1)
        classes = [str(number) for number in range(highest + 1)]
    in_memory = all(isinstance(samples, ImageArrays) for samples in parts.values())
    return divided(
        spec,
        name=f"of {spec.factory}",
        class_names=tuple(str(name) for name in classes),
        parts=parts,
        fingerprint=None if in_memory else lambda: _fingerprint(spec, parts),
    )


def _part(spec: DatasetSpec, name: str, value: Any) -> Samples:
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(hasattr(item, "__array__") for item in value):
        inputs, labels = np.asarray(value[0]), np.asarray(value[1])
        if inputs.dtype.kind not in "uifb" or labels.dtype.kind not in "ui" or labels.shape != inputs.shape[:1]:
            raise _wrong(spec, f"{name} with inputs {_like(inputs)} and labels {_like(labels)}")
        if inputs.dtype == np.uint8 and inputs.ndim == 3:
            inputs = inputs[:, None]
        values, max_value = _numbers(inputs, dimensions=4)
        if not len(labels):
            raise UserError(f"{FIELD} {spec.factory}: {name} is empty")
        return ImageArrays(values, labels.astype(np.int64), max_value)
    if hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, (str, bytes)):
        if not len(value):
            raise UserError(f"{FIELD} {spec.factory}: {name} is empty")
        return _items(spec, name, value)
    raise _wrong(spec, f"{name} as {type(value).__name__}")


def _items(spec: DatasetSpec, name: str, items: Any) -> Items:
    try:
        first, _ = items[0]
        known = getattr(items, "targets", None)
        labels = known if known is not None and len(known) == len(items) else [item[1] for item in _each(items)]
        values, max_value = _numbers(_array(first), dimensions=3)
        return Items(items, np.asarray(labels).astype(np.int64), tuple(values.shape), values.dtype, max_value)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{FIELD} {spec.factory}: an item of {name} is not (input, label): {type(error).__name__}: {error}"
        ) from error


def _each(items: Any) -> Any:
    return (items[index] for index in range(len(items)))


def _array(value: Any) -> NDArray[Any]:
    """An input as an array; a PIL image as channel, height, width."""
    array = np.asarray(value)
    if hasattr(value, "getbands"):
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return array


def _numbers(array: NDArray[Any], *, dimensions: int) -> tuple[NDArray[Any], int | None]:
    if array.dtype == np.uint8 and array.ndim == dimensions:
        return np.ascontiguousarray(array), 255
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64), None


@dataclass(frozen=True, slots=True)
class Items:
    """A map-style data set, or some of its items."""

    items: Any
    labels: NDArray[np.int64]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    max_value: int | None
    chosen: NDArray[np.int64] | None = None  # which items; None: all

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        """Nobody knows what an item costs."""
        return False

    def take(self, indices: NDArray[np.int64]) -> Items:
        """The samples at these indices, in this order."""
        chosen = indices if self.chosen is None else self.chosen[indices]
        return Items(self.items, self.labels[indices], self.shape, self.dtype, self.max_value, chosen)

    def read(self, indices: NDArray[np.int64], crops: NDArray[np.float64] | None = None) -> Raw:
        """The items, see `Samples.read`. A random-resized crop is cut from the item itself."""
        into = np.empty((len(indices), *self.shape), dtype=self.dtype)
        return read_each(self, indices, lambda position, index: self._one(index), into=into)

    def _one(self, index: int) -> NDArray[Any]:
        number = index if self.chosen is None else int(self.chosen[index])
        try:
            value, label = self.items[number]
            array = _array(value)
        except Exception as error:
            raise UnreadableError(f"{type(error).__name__}: {error}") from error
        if array.shape != self.shape:
            raise UnreadableError(f"its shape is {array.shape}, the first item's is {self.shape}")
        if int(label) != self.labels[index]:
            raise UserError(f"{FIELD}: item {number} has class {label} now and had {self.labels[index]} before")
        return array

    def name_of(self, index: int) -> str:
        """Its number."""
        return f"item {index if self.chosen is None else self.chosen[index]}"


def _fingerprint(spec: DatasetSpec, parts: Mapping[str, Samples]) -> str:
    digest = hashlib.sha256()
    split = spec.split.to_json_dict() if spec.split else {}
    arguments = spec.arguments.to_json_dict() if spec.arguments else {}
    digest.update(json.dumps([spec.factory, arguments, split], sort_keys=True).encode())
    for name, samples in parts.items():
        own = getattr(getattr(samples, "items", None), "fingerprint", None)
        digest.update(f"{name} {len(samples)} {own}".encode())
        digest.update(samples.labels.tobytes())
        if own is None:
            raw = samples.read(spread(len(samples), _FINGERPRINTED))
            digest.update(np.ascontiguousarray(raw.values).tobytes())
    return digest.hexdigest()


def _like(array: NDArray[Any]) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _wrong(spec: DatasetSpec, what: str) -> UserError:
    return UserError(
        f"{FIELD} {spec.factory} returned {what}; it must return (inputs, labels), a map-style data set, or a mapping "
        "of train (and validation, test) to such, with classes as their names"
    )
