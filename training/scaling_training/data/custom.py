"""Data from a function of the user's; docs/data.md says what it may return.

A part is a pair of arrays (inputs, targets), or a map-style data set: anything with a length whose items are
(input, target). uint8 inputs of three dimensions (channel, height, width) are images; any other numbers are trained
on as they are, floats as float32 and whole numbers as int64 (token ids). What targets may be, `data.targets` says.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling_api.spec import DatasetSpec
from scaling_training import factory
from scaling_training.data.arrays import ImageArrays
from scaling_training.data.dataset import Dataset, divided
from scaling_training.data.draws import steady_draws
from scaling_training.data.items import FINGERPRINTED, Items, as_trained, open_items
from scaling_training.data.reading import spread
from scaling_training.data.samples import Samples
from scaling_training.data.targets import Targets, class_names, like, read_targets
from scaling_training.errors import UserError

log = logging.getLogger(__name__)

FIELD = "dataset.factory"
_PARTS = ("train", "validation", "test")


def open_factory(spec: DatasetSpec) -> Dataset:
    """What the spec's factory returns; UserError when it raises or returns something else than documented."""
    assert spec.factory is not None, "a rule of the spec"
    arguments = spec.arguments.model_dump() if spec.arguments else {}
    factory.resolve(spec.factory, field=FIELD)  # imports what draws
    with steady_draws():
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
    if _is_pair(value):
        with factory.user_code(where):
            inputs, given = np.asarray(value[0]), np.asarray(value[1])
        if inputs.dtype.kind not in "uifb" or not inputs.ndim or given.shape[:1] != inputs.shape[:1]:
            raise _wrong(spec, f"{name} with inputs {like(inputs)} and targets {like(given)}")
        if inputs.dtype == np.uint8 and inputs.ndim == 3:
            inputs = inputs[:, None]
        if not len(given):
            raise UserError(f"{where} is empty")
        values, max_value = as_trained(inputs, dimensions=4)
        _check_finite(values, where)
        targets = read_targets(given, where=where)
        return ImageArrays(values, targets.labels, max_value, targets.learned), targets
    if hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, (str, bytes, Mapping)):
        if not len(value):
            raise UserError(f"{where} is empty")
        return open_items(value, where=where)
    raise _wrong(spec, f"{name} as {type(value).__name__}")


def _is_pair(value: Any) -> bool:
    """Whether it is (inputs, targets): arrays, or lists as long as one another."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        return False
    if all(hasattr(item, "__array__") for item in value):
        return True
    lengths = {len(item) if isinstance(item, (tuple, list)) or hasattr(item, "__array__") else 2 for item in value}
    return len(lengths) == 1 and lengths != {2}  # two pairs are two items


def _check_finite(values: NDArray[Any], where: str) -> None:
    if values.dtype.kind != "f":
        return
    odd = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    if len(odd):
        raise UserError(
            f"{where}: the inputs of {len(odd)} of {len(values)} samples hold NaN or infinite values, first those of "
            f"sample {odd[0]}; mend them, or leave the samples out"
        )


def _fingerprint(spec: DatasetSpec, parts: Mapping[str, Samples]) -> str:
    digest = hashlib.sha256()
    split = spec.split.to_json_dict() if spec.split else {}
    arguments = spec.arguments.to_json_dict() if spec.arguments else {}
    digest.update(json.dumps([spec.factory, arguments, split], sort_keys=True).encode())
    for name, samples in parts.items():
        own = _own_fingerprint(spec, samples) if isinstance(samples, Items) else None
        digest.update(f"{name} {len(samples)} {own}".encode())
        digest.update(samples.targets.tobytes())
        if own is None:
            digest.update(_content(spec, name, samples))
    return digest.hexdigest()


def _content(spec: DatasetSpec, name: str, samples: Samples) -> bytes:
    if not isinstance(samples, Items):
        return np.ascontiguousarray(samples.read(spread(len(samples), FINGERPRINTED)).values).tobytes()
    content = samples.content()
    if content is None:
        log.warning(
            "%s %s: items of %s are others each time that they are read, so the fingerprint leaves their content out, "
            "and nobody notices when the data changes; draw from the global generators of random, numpy and torch, "
            "or give the data set an attribute fingerprint",
            FIELD,
            spec.factory,
            name,
        )
    return content or b""


def _own_fingerprint(spec: DatasetSpec, samples: Items) -> str | int | None:
    """What the data set itself says of whether it has changed."""
    with factory.user_code(f"{FIELD} {spec.factory}: fingerprint"):
        own = getattr(samples.items, "fingerprint", None)
        own = own() if callable(own) else own
    # The text of any other object may hold where it lies in memory.
    if own is not None and not isinstance(own, (str, int)):
        raise UserError(f"{FIELD} {spec.factory}: fingerprint is a {type(own).__name__}; let it be a text or a number")
    return own


def _wrong(spec: DatasetSpec, what: str) -> UserError:
    return UserError(
        f"{FIELD} {spec.factory} returned {what}; it must return (inputs, targets), a map-style data set, or a mapping "
        "of train (and validation, test) to such, with classes as their names"
    )
