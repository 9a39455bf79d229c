"""What an edit may change while a job runs: the fields that are marked Editable.

Anything else needs suspend, before or in the same request, so that no running pod ever disagrees with its
spec. Before the first attempt no pod can: so a job that the operator finds wrong is mended by an edit. (The
operator begins an attempt only of the version of the job that it has seen.) One rule over the whole object, made from
the models: in CEL for the API server and in Python for everybody else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic.fields import FieldInfo

from scaling_api.base import Model
from scaling_api.constraints import Editable, KeyedBy
from scaling_api.spec import ScalingJobSpec

FROZEN_SENTENCE = (
    "a job that has begun takes edits of cluster.workers min and max and of runPolicy only; "
    "set runPolicy.suspend to true (in the same request is enough) to change anything else, or delete the job "
    "and apply it anew"
)


def edit_allowed(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """The Python side of FROZEN_WHILE_RUNNING, over two versions of a job as the API server stores them."""
    if (old.get("status") or {}).get("attempt") is None:
        return True
    before, after = old["spec"], new["spec"]
    suspended = before["runPolicy"]["suspend"] or after["runPolicy"]["suspend"]
    return bool(suspended) or _text(frozen_part(before)) == _text(frozen_part(after))


def frozen_part(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What of a spec, as JSON values, an edit of a running job must leave as it is.

    The order of a list with keys does not count, and is that of the keys here.
    """
    return _frozen_part(ScalingJobSpec, spec)


def editable_fields(model: type[Model] = ScalingJobSpec, path: str = "") -> Iterator[str]:
    """The paths of the fields that may be edited: ``cluster.workers.min``."""
    for name, field in model.model_fields.items():
        if _is_editable(field):
            yield f"{path}{field.alias or name}"
        elif (inner := _model_in(field)) is not None:
            yield from editable_fields(inner, f"{path}{field.alias or name}.")


def _frozen_part(model: type[Model], value: Mapping[str, Any]) -> dict[str, Any]:
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    kept = {key: item for key, item in value.items() if key not in fields or not _is_editable(fields[key])}
    for key, item in kept.items():
        field = fields.get(key)
        inner = _model_in(field) if field is not None else None
        if field is None or inner is None:
            continue
        if isinstance(item, Mapping):
            kept[key] = _frozen_part(inner, item)
        elif isinstance(item, list):
            items = [_frozen_part(inner, one) for one in item]
            list_key = _key_of(field)
            kept[key] = sorted(items, key=lambda one: str(one.get(list_key))) if list_key is not None else items
    return kept


def _text(value: dict[str, Any]) -> str:
    # To the server 1, "1" and true are three things, and 1 and True are one to Python.
    return json.dumps(value, sort_keys=True)


def _unchanged(model: type[Model], new: str, old: str) -> Iterator[str]:
    """CEL: that each frozen field of the model is what it was; ``new`` and ``old`` are expressions for the two."""
    for name, field in model.model_fields.items():
        key = field.alias or name
        now, then = f"{new}.{key}", f"{old}.{key}"
        inner = _model_in(field)
        if _is_editable(field):
            continue
        if inner is None or not any(editable_fields(inner)):
            yield f"{now} == {then}" if _is_stored(field) else _unchanged_if_set(now, then)
        elif _key_of(field) is not None:
            yield f"{now}.size() == {then}.size()"
            # The key is one of the fields that are compared.
            yield f"{now}.all(n, {then}.exists(o, {' && '.join(_unchanged(inner, 'n', 'o'))}))"
        else:
            yield from _unchanged(inner, now, then)


def _unchanged_if_set(now: str, then: str) -> str:
    """CEL: the field is what it was, or absent as it was.

    Not by comparing optionals (``self.spec.?storage``), which the API server's cost estimate takes for unbounded.
    """
    return f"has({now}) == has({then}) && (!has({now}) || {now} == {then})"


def _is_editable(field: FieldInfo) -> bool:
    return any(isinstance(mark, Editable) for mark in field.metadata)


def _is_stored(field: FieldInfo) -> bool:
    """Whether the API server stores the field of each job: it is required, or has a default that is not empty."""
    return field.is_required() or field.get_default(call_default_factory=True) not in (None, [], {})


def _key_of(field: FieldInfo) -> str | None:
    """The key of a list whose items have one."""
    return next((mark.key for mark in field.metadata if isinstance(mark, KeyedBy)), None)


def _model_in(field: FieldInfo) -> type[Model] | None:
    """The model that a field is, may be or lists."""
    candidates = [field.annotation, *get_args(field.annotation)]
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, Model)), None)


FROZEN_WHILE_RUNNING = (
    "!has(oldSelf.status) || !has(oldSelf.status.attempt) || "
    "oldSelf.spec.runPolicy.suspend || self.spec.runPolicy.suspend || ("
    + " && ".join(_unchanged(ScalingJobSpec, "self.spec", "oldSelf.spec"))
    + ")"
)
