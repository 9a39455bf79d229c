"""Names, labels and paths derived from a job. Pure functions of identity: the same job, attempt and slot
always give the same name, so that creating twice is refused by the API server instead of making two.
"""

from __future__ import annotations

from dataclasses import dataclass

from scaling_api.scalars import GROUP

LABEL_JOB = f"{GROUP}/job"
LABEL_ATTEMPT = f"{GROUP}/attempt"
LABEL_ROLE = f"{GROUP}/role"
LABEL_GROUP = f"{GROUP}/group"
LABEL_INDEX = f"{GROUP}/index"
LABEL_INCARNATION = f"{GROUP}/incarnation"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "scaling-operator"
# Ray's own autoscaler finds pods by these.
LABEL_RAY_CLUSTER = "ray.io/cluster"
LABEL_RAY_NODE_TYPE = "ray.io/node-type"
LABEL_RAY_GROUP = "ray.io/group"

ROLE_HEAD = "head"
ROLE_WORKER = "worker"
SERVICE_ACCOUNT = "scalingjob"


@dataclass(frozen=True, slots=True, order=True)
class WorkerSlot:
    """A place for one worker pod: its group and its index in the group."""

    group: str
    index: int

    @property
    def key(self) -> str:
        """The key in status.incarnations."""
        return f"{self.group}-{self.index}"


def ray_cluster(job: str, attempt: int) -> str:
    """The Ray cluster's name, also that of the attempt's Service, Secret and NetworkPolicy."""
    return f"{job}-{attempt}"


def head_pod(job: str, attempt: int) -> str:
    """The attempt's head pod: one and only one, never replaced within the attempt."""
    return f"{job}-{attempt}-head"


def head_address(job: str, attempt: int, namespace: str) -> str:
    """The DNS name under which workers find the head."""
    return f"{ray_cluster(job, attempt)}.{namespace}.svc"


def worker_pod(job: str, attempt: int, slot: WorkerSlot, incarnation: int) -> str:
    """The pod of a slot; a replacement has the next incarnation, so a Terminating one never blocks it."""
    return f"{job}-{attempt}-{slot.group}-{slot.index}-{incarnation}"


def run_folder(namespace: str, job: str, uid: str) -> str:
    """The job's folder below the storage root: the uid keeps a later job of the same name apart."""
    return f"{namespace}/{job}-{uid}"
