"""Plain-dict Kubernetes objects: the key under which one is known, its version, its address in the API.

Objects stay undecoded JSON dicts because typed models cost seven times the CPU and three times the memory.
Treat every object that comes out of a store as read-only: all readers share it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

Object: TypeAlias = dict[str, Any]


class Key(NamedTuple):
    """Identifies an object within its kind; `namespace` is empty for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def key_of(obj: Object) -> Key:
    """The key of `obj`."""
    metadata = obj["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


def version_of(obj: Object) -> int:
    """The resourceVersion of `obj` (or of a list) as a number; 0 when it has none.

    Versions of all kinds of one API server grow along one counter, so they can be ordered.
    """
    return parse_version(obj.get("metadata", {}).get("resourceVersion"))


def parse_version(value: Any) -> int:
    """A resourceVersion as a number; 0 for anything that is none."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


def resource_path(
    group_version: str,
    plural: str,
    namespace: str | None = None,
    name: str | None = None,
    subresource: str | None = None,
) -> str:
    """The URL path of a collection (no `name`), an object, or its subresource.

    `group_version` is what stands in `apiVersion` ("v1", "coordination.k8s.io/v1"); without `namespace` the
    path is cluster-wide.
    """
    parts = ["/apis" if "/" in group_version else "/api", group_version]
    if namespace:
        parts += ["namespaces", namespace]
    parts.append(plural)
    if name:
        parts.append(name)
    if subresource:
        parts.append(subresource)
    return "/".join(parts)
