"""Nested mappings as flat ones whose names are paths, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat(value: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a/b": 1}``, for the separator ``/``. An empty mapping leaves nothing."""
    found: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            found |= {f"{name}{separator}{path}": inner for path, inner in flat(item, separator).items()}
        else:
            found[name] = item
    return found


def nested(value: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """The inverse of `flat`, but for empty mappings."""
    found: dict[str, Any] = {}
    for path, item in value.items():
        *folders, name = path.split(separator)
        place = found
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = item
    return found
