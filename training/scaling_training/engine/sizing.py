"""How many training processes to run, and what each of them takes.

With training.parallelism.data the number is fixed: the product of the axes. Without it, on a cluster, training is
elastic: it starts with all the slots that the spec promises when they are there soon, with no fewer than the groups'
min, and follows the slots that exist. Their number is not bounded by the spec's max, because an edit of max takes
effect while the job runs; only a process without a sample per step would be of no use. An edit of min and max counts
from the next start of the processes, one that is waited for included. Only whole model groups (fsdp
times tensor times pipeline) train: slots that would make part of one stay idle. On one machine without a number: one
process per GPU, or one; at least one model group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scaling_api.driver import WorkerBounds
from scaling_api.quantities import gpus_of
from scaling_api.spec import ScalingJobSpec, WorkerGroup


@dataclass(frozen=True, slots=True)
class Sizing:
    """The answer, in training processes."""

    least: int  # never train with fewer
    wanted: int  # wait a while for so many at the start
    most: int  # never train with more
    gpus_per_worker: int
    group: int = 1  # processes that hold one replica together: only whole groups train

    @property
    def elastic(self) -> bool:
        """Whether the number may change while training runs."""
        return self.least < self.most

    def whole_groups(self, slots: int) -> int:
        """How many of so many slots can train."""
        return min(slots // self.group * self.group, self.most)

    def has_room(self, workers: int, *, slots: int) -> bool:
        """Whether more than those that train could train on so many slots."""
        return self.whole_groups(slots) > workers


def plan_workers(
    spec: ScalingJobSpec, *, on_cluster: bool, local_gpus: int, edited: Sequence[WorkerBounds] = ()
) -> Sizing:
    """The sizing of a job; ``local_gpus`` counts only when it runs on one machine.

    ``edited`` are bounds that go before those of the spec, of groups that it has.
    """
    parallelism = spec.training.parallelism
    fixed, group_size = parallelism.workers, parallelism.model_group
    most = spec.training.batch_size // parallelism.fsdp * group_size

    def whole(slots: int) -> int:
        return min(max(1, slots // group_size) * group_size, most)

    bounds = {group.name: group for group in edited}
    groups = spec.cluster.workers
    if not on_cluster:
        count = fixed or whole(local_gpus)
        return Sizing(count, count, count, 1 if local_gpus >= count else 0, group_size)
    gpus = 1 if groups and all(has_gpus(group) for group in groups) else 0
    if fixed is not None:
        return Sizing(fixed, fixed, fixed, gpus, group_size)
    least = whole(sum(bounds.get(group.name, group).min * group.slots for group in groups))
    wanted = max(least, whole(sum(bounds.get(group.name, group).max * group.slots for group in groups)))
    return Sizing(least, wanted, most, gpus, group_size)


def unused_gpus(spec: ScalingJobSpec, sizing: Sizing, *, on_cluster: bool, local_gpus: int) -> str | None:
    """A sentence about GPUs that are there while training runs on CPUs; None when there are none, or they are used."""
    if sizing.gpus_per_worker:
        return None
    if not on_cluster:
        if not local_gpus:
            return None
        return (
            f"training runs on CPUs: {sizing.wanted} training processes need a GPU each, and there are {local_gpus}; "
            f"lower training.parallelism to use them"
        )
    groups = spec.cluster.workers
    having = [group.name for group in groups if has_gpus(group)]
    if not having:
        return None
    lacking = [group.name for group in groups if not has_gpus(group)]
    return (
        f"training runs on CPUs: all processes compute alike, and of cluster.workers {', '.join(having)} has GPUs and "
        f"{', '.join(lacking)} has none; give all groups GPUs, or take those without out"
    )


def has_gpus(group: WorkerGroup) -> bool:
    """Whether each pod of the group has a GPU."""
    return gpus_of(group.resources.limits) > 0
