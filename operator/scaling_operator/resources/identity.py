"""What every object of an attempt carries: labels that find it, the reference that lets it go with its job."""

from __future__ import annotations

from typing import Any

from scaling_api import names
from scaling_api.spec import API_VERSION, KIND, ScalingJob

HEAD_GROUP = "headgroup"


def attempt_selector(job: ScalingJob, attempt: int) -> dict[str, str]:
    """The labels that all pods of the attempt share, and nobody else's in the namespace have."""
    return {names.LABEL_JOB: job.metadata.name, names.LABEL_ATTEMPT: str(attempt)}


def object_meta(job: ScalingJob, attempt: int, name: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    """Metadata of an object of the attempt, owned by the job."""
    own = {names.LABEL_MANAGED_BY: names.MANAGED_BY, **attempt_selector(job, attempt), **(labels or {})}
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": own,
        "ownerReferences": [owner_reference(job)],
    }


def owner_reference(job: ScalingJob) -> dict[str, Any]:
    """Deleting the job lets the garbage collector delete what refers to it.

    Without blockOwnerDeletion, so that the operator needs no right to update finalizers and a deletion in the
    foreground never waits for a pod's grace period.
    """
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": job.metadata.name,
        "uid": job.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def head_labels(job: ScalingJob, attempt: int) -> dict[str, str]:
    """Labels of the head pod beyond those of all objects."""
    return {
        names.LABEL_ROLE: names.ROLE_HEAD,
        names.LABEL_RAY_CLUSTER: names.ray_cluster(job.metadata.name, attempt),
        names.LABEL_RAY_NODE_TYPE: names.ROLE_HEAD,
        names.LABEL_RAY_GROUP: HEAD_GROUP,
    }


def worker_labels(job: ScalingJob, attempt: int, group: str) -> dict[str, str]:
    """Labels of a worker pod of `group`; its index and incarnation come when its template is filled in."""
    return {
        names.LABEL_ROLE: names.ROLE_WORKER,
        names.LABEL_GROUP: group,
        names.LABEL_RAY_CLUSTER: names.ray_cluster(job.metadata.name, attempt),
        names.LABEL_RAY_NODE_TYPE: names.ROLE_WORKER,
        names.LABEL_RAY_GROUP: group,
    }
