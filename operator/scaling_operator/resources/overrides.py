"""cluster.podOverrides: what it may say, and how it is laid over a pod.

The fields are listed rather than excluded: what is not known to be harmless to the operator's own parts of the
pod (containers, restart policy, security, volumes) is refused with a sentence.

Merging: maps merge key by key, lists of named records merge by their name, tolerations come on top of the
operator's own, everything else replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaling_api.names import LABEL_MANAGED_BY
from scaling_api.spec import GROUP, PodOverrides

_PATH = "spec.cluster.podOverrides"
# Labels and annotations with these prefixes tell the operator and Ray which pod is which.
_RESERVED_PREFIXES = (f"{GROUP}/", "ray.io/")
# The key by which records of a list know each other.
_MERGE_KEY = "name"
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
_DNS_POLICY = _Field(
    "ClusterFirst, ClusterFirstWithHostNet or None with a dnsConfig of servers that know the cluster's Services; by "
    "those of the node alone, as with Default, workers do not find their head, nor the driver the operator",
    lambda value: value in ("ClusterFirst", "ClusterFirstWithHostNet", "None"),
)
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
    "dnsPolicy": _DNS_POLICY,
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
    ours, theirs = pod["spec"].get("tolerations", ()), _content(overrides).get("spec", {}).get("tolerations")
    if theirs is not None:
        merged["spec"]["tolerations"] = _tolerations(ours, theirs)
    return merged


def merge(below: Any, above: Any) -> Any:
    """`above` laid over `below`: maps key by key, lists of named records by name, else `above`."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        shared = {key: merge(below[key], above[key]) for key in below if key in above}
        return {**below, **above, **shared}
    if isinstance(below, list) and isinstance(above, list) and _are_named(below) and _are_named(above):
        ours = {record[_MERGE_KEY]: record for record in below}
        theirs = {record[_MERGE_KEY]: merge(ours.get(record[_MERGE_KEY]), record) for record in above}
        return list({**ours, **theirs}.values())
    return above


def _tolerations(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The operator's, changed by those of the user for the same taint, then the user's others.

    The order counts: of several tolerations that fit a taint Kubernetes takes the first, so that one for all taints
    does not keep a pod on a lost node for ever.
    """
    result, rest = [], list(theirs)
    for own in ours:
        same = [
            one for one in rest if one.get("key") == own["key"] and one.get("effect", own["effect"]) == own["effect"]
        ]
        rest = [one for one in rest if one not in same]
        result.append({key: value for record in (own, *same) for key, value in record.items()})
    return result + rest


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


def _are_named(records: list[Any]) -> bool:
    """Whether every record has a name, and each its own."""
    named = [item[_MERGE_KEY] for item in records if isinstance(item, Mapping) and _MERGE_KEY in item]
    return len(named) == len(records) == len(set(named))
