"""Training processes that are started before there is room for their whole group.

A process needs seconds until torch is imported, and a group starts when all its slots are there: after a loss, when
a new pod has come up. So a process is started on each slot as soon as it is there, and a group is made of processes
that have answered. They hold their slots, and nobody else asks for slots on our Ray cluster, so that no placement
group has to reserve them.

This module is what a new process imports first, so it takes no more of Ray Train than it needs.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from scaling_api.driver import RAY_RESOURCE_SLOT
from scaling_training.engine.answers import START_LIMIT_S
from scaling_training.engine.ray_internals.process import RayTrainWorker
from scaling_training.train import preload

log = logging.getLogger(__name__)


class TrainingProcess(RayTrainWorker):  # type: ignore[misc]
    """Begins to import torch while Ray still makes its rounds."""

    def __init__(self) -> None:
        super().__init__()
        preload.begin(preload.OPTIMIZER_MODULES)


@dataclass(frozen=True, slots=True)
class ByValue:
    """The training function, which goes to a process in the call itself; `get` is what Ray Train asks it for.

    Ray would have it fetched from the object store, from any node that holds it. One that is frozen holds it as well,
    and Ray waits 10 s for an answer before it turns to another.
    """

    work: Callable[[], Any]

    def get(self) -> Callable[[], Any]:
        """The function."""
        return self.work


@dataclass(frozen=True, slots=True)
class Process:
    """An actor, the node that it is started on, and its answer to the first question, a reference."""

    actor: Any
    node: str
    metadata: Any
    asked_at: float  # monotonic second


class Processes:
    """The processes that wait for their group; ``make`` starts an actor, from options."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self._waiting: list[Process] = []

    def start(self, slots: Mapping[str, int], *, now: float) -> None:
        """Have a process on every slot, of which there are so many by node; returns at once.

        On more than a group needs, because one of the nodes may be gone without Ray knowing yet. One that has said
        nothing for START_LIMIT_S, ``now`` being a monotonic second, is taken for stuck and has its place taken.
        """
        self._end_silent(now)
        lost = [process for process in self._waiting if process.node not in slots]
        self._waiting = [process for process in self._waiting if process.node in slots]
        _kill(lost)
        for node in missing(slots, Counter(process.node for process in self._waiting)):
            actor = self._make(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            self._waiting.append(Process(actor, node, actor.get_metadata.remote(), now))

    def answered(self, *, timeout_s: float) -> int:
        """How many have answered, or have ended instead; waits a while for all."""
        return len(self._done(timeout_s))

    def take(self, count: int) -> list[tuple[Any, Any]]:
        """Actor and metadata of ``count`` that have answered, on few nodes; the others are ended.

        Raises RayError, of one of them, when too many have ended or found no node instead; the others wait on.
        """
        found: list[tuple[Process, Any]] = []
        error: RayError | None = None
        for process in self._done(0):
            try:
                found.append((process, ray.get(process.metadata)))
            except RayError as ended:
                self._waiting.remove(process)
                error = ended
        if error is not None and len(found) < count:
            raise error
        chosen = packed([process.node for process, _ in found], count)
        taken = [found[index] for index in chosen]
        _kill([process for process in self._waiting if all(process is not one for one, _ in taken)])
        self._waiting = []
        return [(process.actor, metadata) for process, metadata in taken]

    def _end_silent(self, now: float) -> None:
        late = [process for process in self._waiting if now - process.asked_at >= START_LIMIT_S]
        if not late:
            return
        done = self._done(0)
        for process in late:
            if all(process is not one for one in done):
                log.warning(
                    "A training process on node %s did not answer within %.0f s of its start: it is started anew",
                    process.node,
                    START_LIMIT_S,
                )
                self._waiting.remove(process)
                _kill([process])

    def _done(self, timeout_s: float) -> list[Process]:
        by_reference = {process.metadata: process for process in self._waiting}
        if not by_reference:
            return []
        done, _ = ray.wait(list(by_reference), num_returns=len(by_reference), timeout=timeout_s)
        return [by_reference[reference] for reference in done]


def missing(slots: Mapping[str, int], taken: Mapping[str, int]) -> list[str]:
    """The nodes of the free slots."""
    return [node for node, count in slots.items() for _ in range(count - taken.get(node, 0))]


def packed(nodes: Sequence[str], count: int) -> list[int]:
    """Which ``count`` of the processes on these nodes to take so that they are on few: first where most are."""
    on_node = Counter(nodes)
    return sorted(range(len(nodes)), key=lambda index: (-on_node[nodes[index]], nodes[index]))[:count]


def slots_by_node() -> dict[str, int]:
    """Slots on each of the nodes that are alive and have any."""
    found = {node["NodeID"]: int(node["Resources"].get(RAY_RESOURCE_SLOT, 0)) for node in ray.nodes() if node["Alive"]}
    return {node: slots for node, slots in found.items() if slots}


def _kill(processes: list[Process]) -> None:
    for process in processes:
        ray.kill(process.actor)
