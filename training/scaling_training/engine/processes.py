"""Training processes that are started before there is room for their whole group.

A process needs seconds until torch is imported, and a group starts when all its slots are there: after a loss, when
a new pod has come up. So a process is started on each slot as soon as it is there, and a group is made of processes
that have answered. They hold their slots, and nobody else asks for slots on our Ray cluster, so that no placement
group has to reserve them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from scaling_api.driver import RAY_RESOURCE_SLOT


@dataclass(frozen=True, slots=True)
class Process:
    """An actor, the node that it is started on, and its answer to the first question, a reference."""

    actor: Any
    node: str
    metadata: Any


class Processes:
    """The processes that wait for their group; ``make`` starts an actor, from options."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self._waiting: list[Process] = []

    def start(self, slots: Mapping[str, int], count: int) -> None:
        """Have ``count`` processes wait, or as many as there are ``slots``, by node; returns at once."""
        lost = [process for process in self._waiting if process.node not in slots]
        self._waiting = [process for process in self._waiting if process.node in slots]
        _kill(lost)
        for node in missing(slots, Counter(process.node for process in self._waiting), count):
            actor = self._make(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            self._waiting.append(Process(actor, node, actor.get_metadata.remote()))

    def answered(self, *, timeout_s: float) -> int:
        """How many have answered, or have ended instead; waits a while for all."""
        references = [process.metadata for process in self._waiting]
        return len(ray.wait(references, num_returns=len(references), timeout=timeout_s)[0]) if references else 0

    def take(self, count: int) -> list[tuple[Any, Any]]:
        """Actor and metadata of ``count`` that have answered; the others are ended.

        Raises RayActorError for one that has ended instead; the others wait on.
        """
        done, _ = ray.wait([process.metadata for process in self._waiting], num_returns=count, timeout=0)
        chosen = [process for process in self._waiting if process.metadata in done]
        found = []
        for process in chosen:
            try:
                found.append((process.actor, ray.get(process.metadata)))
            except ray.exceptions.RayActorError:
                self._waiting.remove(process)
                raise
        _kill([process for process in self._waiting if process not in chosen])
        self._waiting = []
        return found


def missing(slots: Mapping[str, int], taken: Mapping[str, int], count: int) -> list[str]:
    """Where to start processes so that there are ``count``: on few nodes, so first where most slots are."""
    largest_first = sorted(slots, key=lambda node: (-slots[node], node))
    free = [node for node in largest_first for _ in range(slots[node] - taken.get(node, 0))]
    return free[: max(0, count - sum(taken.values()))]


def slots_by_node() -> dict[str, int]:
    """Slots on each of the nodes that are alive and have any."""
    found = {node["NodeID"]: int(node["Resources"].get(RAY_RESOURCE_SLOT, 0)) for node in ray.nodes() if node["Alive"]}
    return {node: slots for node, slots in found.items() if slots}


def _kill(processes: list[Process]) -> None:
    for process in processes:
        ray.kill(process.actor)
