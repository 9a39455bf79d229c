"""Data from a function of the user's; docs/data.md says what it may return.

A part is a pair of arrays (inputs, targets), or a map-style data set: anything with a length whose items are
(input, target). uint8 inputs of three dimensions (channel, height, width) are images; any other numbers are trained
on as they are, floats as float32 and whole numbers as int64 (token ids). What targets may be, `data.targets` says.
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
from scaling_training.data.targets import Targets, class_names, like, read_targets
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
    read = {name: _part(spec, name, given[name]) for name in _PARTS if name in given}
    parts: dict[str, Samples] = {name: samples for name, (samples, _) in read.items()}
    targets = {name: found for name, (_, found) in read.items()}
    shapes = {samples.shape for samples in parts.values()}
    if len(shapes) > 1:
        raise UserError(f"{FIELD} {spec.factory}: the parts' samples differ in shape: {sorted(shapes)}")
    in_memory = all(isinstance(samples, ImageArrays) for samples in parts.values())
    return divided(
        spec,
        name=f"of {spec.factory}",
        class_names=class_names(targets, given.get("classes"), where=f"{FIELD} {spec.factory}"),
        parts=parts,
        kind=targets["train"].kind,
        fingerprint=None if in_memory else lambda: _fingerprint(spec, parts),
    )


def _part(spec: DatasetSpec, name: str, value: Any) -> tuple[Samples, Targets]:
    where = f"{FIELD} {spec.factory}: {name}"
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(hasattr(item, "__array__") for item in value):
        inputs, given = np.asarray(value[0]), np.asarray(value[1])
        if inputs.dtype.kind not in "uifb" or not inputs.ndim or given.shape[:1] != inputs.shape[:1]:
            raise _wrong(spec, f"{name} with inputs {like(inputs)} and targets {like(given)}")
        if inputs.dtype == np.uint8 and inputs.ndim == 3:
            inputs = inputs[:, None]
        values, max_value = _numbers(inputs, dimensions=4)
        if not len(given):
            raise UserError(f"{where} is empty")
        targets = read_targets(given, where=where)
        return ImageArrays(values, targets.labels, max_value, targets.learned), targets
    if hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, (str, bytes)):
        if not len(value):
            raise UserError(f"{where} is empty")
        return _items(value, where=where)
    raise _wrong(spec, f"{name} as {type(value).__name__}")


def _items(items: Any, *, where: str) -> tuple[Items, Targets]:
    try:
        first, _ = items[0]
        known = getattr(items, "targets", None)
        given = known if known is not None and len(known) == len(items) else [item[1] for item in _each(items)]
        values, max_value = _numbers(_array(first), dimensions=3)
        targets = read_targets(given, where=where)
        shape = tuple(values.shape)
        return Items(items, targets.labels, shape, values.dtype, max_value, learned=targets.learned), targets
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: an item is not (input, target): {type(error).__name__}: {error}") from error


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
            array, before = _array(value), self.targets[index]
            same = np.array_equal(np.asarray(target, dtype=before.dtype), before)
        except Exception as error:
            raise UnreadableError(f"{type(error).__name__}: {error}") from error
        if array.shape != self.shape:
            raise UnreadableError(f"its shape is {array.shape}, the first item's is {self.shape}")
        if not same:
            raise UserError(f"{FIELD}: item {number} has the target {target} now and had {before} before")
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
        digest.update(samples.targets.tobytes())
        if own is None:
            raw = samples.read(spread(len(samples), _FINGERPRINTED))
            digest.update(np.ascontiguousarray(raw.values).tobytes())
    return digest.hexdigest()


def _wrong(spec: DatasetSpec, what: str) -> UserError:
    return UserError(
        f"{FIELD} {spec.factory} returned {what}; it must return (inputs, targets), a map-style data set, or a mapping "
        "of train (and validation, test) to such, with classes as their names"
    )
