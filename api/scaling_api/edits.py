"""What an edit may change while a job runs: min and max of a worker group, and runPolicy.

Anything else needs suspend, before or in the same request, so that no running pod ever disagrees with its
spec. Before the first attempt no pod can: so a job that the operator finds wrong is mended by an edit. (The
operator begins an attempt only of the version of the job that it has seen.) One rule over the whole object, in CEL
for the API server and in Python for everybody else.
"""

from __future__ import annotations

import json
from typing import Any

_SECTIONS = ("model", "dataset", "training", "cluster.imagePullPolicy", "cluster.head", "cluster.workers.size()")
_OPTIONAL = (
    "storage",
    "code",
    "cluster.image",
    "cluster.imagePullSecrets",
    "cluster.serviceAccountName",
    "cluster.env",
    "cluster.volumes",
    "cluster.podOverrides",
)
_OF_A_GROUP = ("name", "slots", "resources")
# For the API server the order of a list with keys does not count.
_KEYED = ("env", "volumes", "workers")


def _unchanged(path: str) -> str:
    """CEL: the field of the spec is what it was."""
    return f"self.spec.{path} == oldSelf.spec.{path}"


def _unchanged_if_set(path: str) -> str:
    """CEL: the field of the spec is what it was, or absent as it was.

    Not by comparing optionals (``self.spec.?storage``), which the API server's cost estimate takes for unbounded.
    """
    new, old = f"has(self.spec.{path})", f"has(oldSelf.spec.{path})"
    return f"{new} == {old} && (!{new} || {_unchanged(path)})"


FROZEN_WHILE_RUNNING = (
    "!has(oldSelf.status) || !has(oldSelf.status.attempt) || "
    "oldSelf.spec.runPolicy.suspend || self.spec.runPolicy.suspend || ("
    + " && ".join([*map(_unchanged, _SECTIONS), *map(_unchanged_if_set, _OPTIONAL)])
    + " && self.spec.cluster.workers.all(w, oldSelf.spec.cluster.workers.exists(o, "
    + " && ".join(f"o.{field} == w.{field}" for field in _OF_A_GROUP)
    + ")))"
)
FROZEN_SENTENCE = (
    "a job that has begun takes edits of cluster.workers min and max and of runPolicy only; "
    "set runPolicy.suspend to true (in the same request is enough) to change anything else, or delete the job "
    "and apply it anew"
)


def edit_allowed(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """The Python side of FROZEN_WHILE_RUNNING, over two versions of a job as the API server stores them."""
    if (old.get("status") or {}).get("attempt") is None:
        return True
    before, after = old["spec"], new["spec"]
    return before["runPolicy"]["suspend"] or after["runPolicy"]["suspend"] or frozen_part(before) == frozen_part(after)


def frozen_part(spec: dict[str, Any]) -> str:
    """What an edit of a running job must leave as it is, as text that two specs share if and only if it is equal.

    As text because to the server 1, "1" and true are three things, and 1 and True are one to Python.
    """
    cluster = dict(spec["cluster"])
    for field in _KEYED:
        if field in cluster:
            cluster[field] = sorted(cluster[field], key=lambda item: str(item["name"]))
    editable = ("min", "max")
    cluster["workers"] = [{k: v for k, v in group.items() if k not in editable} for group in cluster["workers"]]
    return json.dumps({**spec, "cluster": cluster, "runPolicy": None}, sort_keys=True)
