"""Whose is an object? The controller among its owner references says so. Pure.

By name nothing is known: names of an attempt's objects are derived from the job's, and anybody may have used one
before. So whatever is changed or deleted is first seen to be ours, and then named together with its uid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scaling_api import GROUP, KIND
from scaling_api.spec import ScalingJob

from .runtime.objects import Key, Object


@dataclass(frozen=True, slots=True)
class Target:
    """The job that actions are about; `manifest` is as cached, `job` as parsed."""

    key: Key
    manifest: Object
    job: ScalingJob

    @property
    def uid(self) -> str:
        """Tells the job from others that had its name, or will."""
        uid: str = self.manifest["metadata"]["uid"]
        return uid


def owner_uids(owned: Object) -> list[str]:
    """The uids of the jobs that own an object: one, or none for an object that only looks like ours."""
    return [owner["uid"] for owner in _jobs(owned)]


def is_of(found: Object, uid: str) -> bool:
    """Whether the job of that uid owns the object."""
    return uid in owner_uids(found)


def is_of_namesake(found: Object, name: str, uid: str) -> bool:
    """Whether another job of that name than the one of `uid` owns the object, and nobody else does."""
    owners, jobs = found["metadata"].get("ownerReferences") or (), _jobs(found)
    return len(owners) == len(jobs) == 1 and jobs[0].get("name") == name and jobs[0]["uid"] != uid


def _jobs(owned: Object) -> list[dict[str, Any]]:
    owners = owned["metadata"].get("ownerReferences") or ()
    return [owner for owner in owners if owner.get("controller") and owner["kind"] == KIND and _is_ours(owner)]


def _is_ours(owner: dict[str, Any]) -> bool:
    return str(owner.get("apiVersion", GROUP)).partition("/")[0] == GROUP
