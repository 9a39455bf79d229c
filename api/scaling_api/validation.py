"""The verdict on a manifest, the same as the API server's, without one.

Both read the same models: the server by way of the CRD, this module directly. What is left to mirror is
what the server does before it validates: a null in a mapping means that the field is absent, and a number
without a fraction is whole however it is written (5.0, 5e0).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError

from scaling_api.base import violations
from scaling_api.crd import schema, with_defaults
from scaling_api.edits import FROZEN_SENTENCE, edit_allowed
from scaling_api.metadata import metadata_problems
from scaling_api.problems import Path, Problem, closest, dotted, shown
from scaling_api.problems import problems_of as _problems_of
from scaling_api.scalars import API_VERSION, GROUP, KIND
from scaling_api.spec import ScalingJob

_FREE_FORM = (("spec", "cluster", "podOverrides"), ("spec", "model", "arguments"), ("spec", "dataset", "arguments"))
_ROOT_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status")

__all__ = ["Problem", "check", "check_edit", "examine", "is_ours"]


def check(manifest: Any, *, on_cluster: bool = True) -> list[Problem]:
    """Everything that is wrong with a manifest, in the order of its fields; empty when it is right.

    ``on_cluster=False`` leaves out what a run on one machine does not need. Never raises for anything
    that YAML or JSON can hold.
    """
    return examine(manifest, on_cluster=on_cluster)[1]


def examine(manifest: Any, *, on_cluster: bool = True) -> tuple[ScalingJob | None, list[Problem]]:
    """The job that a manifest describes, or None, and everything that is wrong with it.

    Rules over several fields are looked at only when every field by itself is right, as the API server
    does. A job comes back when fields are right, even if rules are broken.
    """
    problems = list(_envelope_problems(manifest))
    if problems:
        return None, problems
    manifest = _normal(manifest)
    problems = list(metadata_problems(manifest["metadata"]))
    problems += [_unknown_root(field) for field in manifest if field not in _ROOT_FIELDS]
    try:
        # By alias only: the server knows no snake_case names.
        job = ScalingJob.model_validate(manifest, by_alias=True, by_name=False)
    except ValidationError as error:
        return None, [*problems, *_problems_of(error.errors(include_url=False), _schema())]
    broken = violations(job)
    problems += [Problem(found.path, found.message) for found in broken if on_cluster or not found.on_cluster_only]
    return job, problems


def check_edit(old: Any, new: Any) -> list[Problem]:
    """Everything that is wrong with applying ``new`` to a job that exists, status included, as ``old``."""
    if problems := check(old) + check(new):
        return problems
    before, after = (_normal(with_defaults(_normal(job), _schema())) for job in (old, new))
    if edit_allowed(before, after):
        return []
    changed = ", ".join(sorted(map(dotted, _changed(before["spec"], after["spec"], ("spec",)))))
    return [Problem(("spec",), FROZEN_SENTENCE, f"changed: {changed}" if changed else None)]


def is_ours(manifest: Any) -> bool:
    """Whether a document means to be a ScalingJob, rightly written or not."""
    if not isinstance(manifest, Mapping):
        return True
    group = str(manifest.get("apiVersion")).partition("/")[0]
    return group == GROUP or closest(str(manifest.get("kind")), [KIND]) is not None


@cache
def _schema() -> dict[str, Any]:
    return schema()


def _envelope_problems(manifest: Any) -> Iterator[Problem]:
    """What makes the rest not worth reading: another kind of thing altogether."""
    if not isinstance(manifest, Mapping):
        yield Problem((), f"a manifest is a mapping with apiVersion, kind, metadata and spec, not {shown(manifest)}")
        return
    for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        value = manifest.get(field)
        if value is None:
            yield Problem((field,), f"is required; write {wanted}")
        elif value != wanted:
            yield Problem((field,), f"must be {wanted}, not {shown(value)}")
    metadata = manifest.get("metadata")
    if metadata is None:
        yield Problem(("metadata",), "is required; it holds the name of the job")
    elif not isinstance(metadata, Mapping):
        yield Problem(("metadata",), f"must be a mapping of fields, not {shown(metadata)}")


def _unknown_root(field: Any) -> Problem:
    guess = closest(str(field), _ROOT_FIELDS)
    return Problem((field,), "unknown field", f"did you mean {guess}?" if guess else None)


def _normal(value: Any, path: Path = ()) -> Any:
    """The manifest as the API server reads it; what is in free-form nodes is nobody's business here."""
    if path in _FREE_FORM:
        return value
    if isinstance(value, Mapping):
        return {key: _normal(item, (*path, key)) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_normal(item, (*path, index)) for index, item in enumerate(value)]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _changed(old: Any, new: Any, path: Path = ()) -> Iterator[Path]:
    """The paths at which two manifests differ, as deep as they can be told apart."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _changed(old.get(key), new.get(key), (*path, key))
    elif json.dumps(old) != json.dumps(new):
        yield path
