"""How a case of the refusals is written: what is different from the minimal manifest."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Manifest = dict[str, Any]
Change = Callable[[Manifest], None]

ABSENT = object()


def minimal() -> Manifest:
    """The shortest manifest that a cluster takes."""
    return {
        "apiVersion": "scaling.dev/v1alpha1",
        "kind": "ScalingJob",
        "metadata": {"name": "mnist"},
        "spec": {
            "storage": {"claimName": "runs"},
            "model": {"name": "small-cnn"},
            "dataset": {"name": "digits"},
            "training": {"epochs": 2},
        },
    }


def put(path: str, value: Any) -> Change:
    """Set the field at a dotted path, making the sections above it; ABSENT removes it."""

    def change(manifest: Manifest) -> None:
        *above, name = path.split(".")
        section = manifest
        for part in above:
            section = section.setdefault(part, {})
        if value is ABSENT:
            del section[name]
        else:
            section[name] = copy.deepcopy(value)

    return change


@dataclass(frozen=True)
class Case:
    """A manifest, described by what is different from the minimal one, and what is said about it."""

    id: str
    change: Change
    path: str
    fragment: str
    # Whether the API server says it in the same words: rules and patterns, whose sentences it carries.
    same_words: bool = False

    def manifest(self) -> Manifest:
        manifest = minimal()
        self.change(manifest)
        return manifest


@dataclass(frozen=True)
class Edit:
    """A change of a job that exists; refused when ``fragment`` is given. ``status`` is that of the job."""

    id: str
    before: Change
    after: Change
    fragment: str | None
    status: Mapping[str, Any] = field(default_factory=lambda: {"attempt": 1})

    def manifests(self) -> tuple[Manifest, Manifest]:
        old, new = minimal(), minimal()
        self.before(old)
        self.after(new)
        old["status"] = dict(self.status)
        return old, new


def cluster(**fields: Any) -> Change:
    return put("spec.cluster", fields)


def group(**fields: Any) -> Change:
    return cluster(workers=[{"name": "gpu", **fields}])


def env(**fields: Any) -> Change:
    return cluster(env=[{"name": "TOKEN", **fields}])


def volume(**fields: Any) -> Change:
    return cluster(volumes=[{"name": "data", "mountPath": "/data", **fields}])


def resources(**fields: Any) -> Change:
    return put("spec.cluster.head.resources", fields)


def limit(value: Any) -> Change:
    return resources(limits={"memory": value})


def training(**fields: Any) -> Change:
    return put("spec.training", {"epochs": 2, **fields})


def both(*changes: Change) -> Change:
    def change(manifest: Manifest) -> None:
        for one in changes:
            one(manifest)

    return change
