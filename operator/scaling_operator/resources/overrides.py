"""cluster.podOverrides: what it may say, and how it is laid over a pod.

The fields are listed rather than excluded: what is not known to be harmless to the operator's own parts of the
pod (containers, restart policy, security, volumes) is refused with a sentence.

Merging: maps merge key by key, lists of named records merge by their name, everything else replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scaling_api.names import LABEL_MANAGED_BY
from scaling_api.spec import GROUP, PodOverrides

_PATH = "spec.cluster.podOverrides"
# Labels and annotations with these prefixes tell the operator and Ray which pod is which.
_RESERVED_PREFIXES = (f"{GROUP}/", "ray.io/")
# The keys by which records of a list know each other.
_MERGE_KEYS = ("name", "key")
_MAX_GRACE_S = 86_400


@dataclass(frozen=True, slots=True)
class _Field:
    """What an overridable field must be, in words and as a test."""

    kind: str
    fits: Callable[[Any], bool]


_MAP = _Field("a map", lambda value: isinstance(value, Mapping))
_STRINGS = _Field(
    "a map of strings",
    lambda value: (
        isinstance(value, Mapping) and all(isinstance(k, str) and isinstance(v, str) for k, v in value.items())
    ),
)
_RECORDS = _Field(
    "a list of maps", lambda value: isinstance(value, list) and all(isinstance(item, Mapping) for item in value)
)
_TEXT = _Field("a string", lambda value: isinstance(value, str))
_GRACE = _Field(
    f"a whole number of seconds from 1 to {_MAX_GRACE_S}",
    lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_GRACE_S,
)

METADATA_FIELDS: Mapping[str, _Field] = {"labels": _STRINGS, "annotations": _STRINGS}
SPEC_FIELDS: Mapping[str, _Field] = {
    "nodeSelector": _STRINGS,
    "tolerations": _RECORDS,
    "affinity": _MAP,
    "topologySpreadConstraints": _RECORDS,
    "priorityClassName": _TEXT,
    "runtimeClassName": _TEXT,
    "schedulerName": _TEXT,
    "dnsPolicy": _TEXT,
    "dnsConfig": _MAP,
    "hostAliases": _RECORDS,
    "terminationGracePeriodSeconds": _GRACE,
}
_SECTIONS: Mapping[str, Mapping[str, _Field]] = {"metadata": METADATA_FIELDS, "spec": SPEC_FIELDS}


def check_overrides(overrides: PodOverrides | None) -> list[str]:
    """Sentences about what `overrides` may not say; empty when all of it can be applied."""
    problems: list[str] = []
    for section, value in _content(overrides).items():
        fields = _SECTIONS.get(section)
        if fields is None:
            problems.append(f"{_PATH}.{section} cannot be overridden; allowed are {_listed(_SECTIONS)}")
        elif not isinstance(value, Mapping):
            problems.append(f"{_PATH}.{section} must be a map")
        else:
            problems += _check_section(f"{_PATH}.{section}", value, fields)
    return problems


def apply_overrides(pod: dict[str, Any], overrides: PodOverrides | None) -> dict[str, Any]:
    """`pod` with `overrides` laid over it; neither is changed. The overrides have passed `check_overrides`."""
    merged: dict[str, Any] = merge(pod, _content(overrides))
    return merged


def merge(below: Any, above: Any) -> Any:
    """`above` laid over `below`: maps key by key, lists of named records by name, else `above`."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        shared = {key: merge(below[key], above[key]) for key in below if key in above}
        return {**below, **above, **shared}
    if isinstance(below, list) and isinstance(above, list) and (key := _merge_key(below, above)):
        ours = {record[key]: record for record in below}
        theirs = {record[key]: merge(ours.get(record[key]), record) for record in above}
        return list({**ours, **theirs}.values())
    return above


def _content(overrides: PodOverrides | None) -> dict[str, Any]:
    return dict(overrides.model_extra or {}) if overrides is not None else {}


def _check_section(path: str, given: Mapping[str, Any], fields: Mapping[str, _Field]) -> list[str]:
    problems = []
    for name, value in given.items():
        field = fields.get(name)
        if field is None:
            problems.append(f"{path}.{name} cannot be overridden; allowed are {_listed(fields)}")
        elif not field.fits(value):
            problems.append(f"{path}.{name} must be {field.kind}")
        elif fields is METADATA_FIELDS:
            problems += [
                f"{path}.{name}.{key} is set by the operator; choose a key that starts with none of "
                f"{', '.join(_RESERVED_PREFIXES)}"
                for key in value
                if key.startswith(_RESERVED_PREFIXES) or key == LABEL_MANAGED_BY
            ]
    return problems


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names)


def _merge_key(below: list[Any], above: list[Any]) -> str | None:
    """The key that names every record of both lists, once in each."""
    for key in _MERGE_KEYS:
        if all(isinstance(item, Mapping) and key in item for item in (*below, *above)) and all(
            len({item[key] for item in items}) == len(items) for items in (below, above)
        ):
            return key
    return None
