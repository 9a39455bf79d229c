"""Checks of metadata, which the API server makes for every resource and the models leave to it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from scaling_api.problems import Path, Problem, closest, not_text, shown

_FIELDS = (
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)
_MAX_PREFIX = 253
_MAX_PART = 63
_PART = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_WORD = "at most 63 letters, digits, dashes, underscores and dots, with a letter or digit at either end"


def metadata_problems(metadata: Mapping[str, Any], path: Path = ("metadata",)) -> Iterator[Problem]:
    """What the API server would refuse in metadata, apart from the name."""
    for field in metadata:
        if field not in _FIELDS:
            guess = closest(str(field), _FIELDS)
            yield Problem((*path, field), "unknown field", f"did you mean {guess}?" if guess else None)
    namespace = metadata.get("namespace")
    if isinstance(namespace, str) and not (_NAMESPACE.fullmatch(namespace) and len(namespace) <= _MAX_PART):
        allowed = "use at most 63 lower-case letters, digits and dashes, with no dash at either end"
        yield Problem((*path, "namespace"), f'"{namespace}" is not the name of a namespace: {allowed}')
    for field in ("labels", "annotations"):
        entries = metadata.get(field)
        if entries is None:
            continue
        if not isinstance(entries, Mapping):
            yield Problem((*path, field), f"must be a mapping of fields, not {shown(entries)}")
            continue
        for key, value in entries.items():
            yield from _entry_problems((*path, field, key), str(key), value, is_label=field == "labels")


def _entry_problems(path: Path, key: str, value: Any, *, is_label: bool) -> Iterator[Problem]:
    prefix, slash, word = key.rpartition("/")
    if not (_PART.fullmatch(word) and len(word) <= _MAX_PART):
        yield Problem(path, f'"{word}" is not a key: use {_WORD}')
    if slash and not (_PREFIX.fullmatch(prefix) and len(prefix) <= _MAX_PREFIX):
        yield Problem(path, f'"{prefix}" is not a prefix of a key: use a DNS name in lower case')
    if not isinstance(value, str):
        yield Problem(path, not_text(value))
    elif is_label and value and not (_PART.fullmatch(value) and len(value) <= _MAX_PART):
        yield Problem(path, f'"{value}" is not the value of a label: use {_WORD}')
