"""Which pods does a cluster consist of? The head and each worker group are one kind of value.

What is created, what the status shows and when the cluster counts as ready are computed from these, so that whoever
else has to know (a queue that admits the job, an autoscaler) is told the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scaling_api.cluster import Cluster
from scaling_api.names import ROLE_HEAD, ROLE_WORKER, WorkerSlot

HEAD_SET = "head"


@dataclass(frozen=True, slots=True)
class PodSet:
    """Pods that are alike: `count` of them are wanted, and with fewer than `minimum` there is no cluster.

    They are made from the attempt's template of that name.
    """

    name: str
    role: str
    count: int
    minimum: int

    @property
    def slots(self) -> Iterator[WorkerSlot]:
        """The places of its pods, of a set of workers."""
        return (WorkerSlot(self.name, index) for index in range(self.count))


def pod_sets(cluster: Cluster) -> tuple[PodSet, ...]:
    """All of a cluster: the head, then the worker groups in the order of the spec."""
    head = PodSet(HEAD_SET, ROLE_HEAD, count=1, minimum=1)
    return (head, *(PodSet(group.name, ROLE_WORKER, group.max, group.min) for group in cluster.workers))


def workers_among(sets: Sequence[PodSet]) -> tuple[PodSet, ...]:
    """Those of workers."""
    return tuple(one for one in sets if one.role == ROLE_WORKER)
