"""Scenes from a job's life: play one, and look at what the job's status says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from scaling_operator.runtime.objects import key_of
from tests.unit.scaling_operator.runtime.virtual_time import run_in_virtual_time

from .world import World


def in_world(scene: Callable[[World], Awaitable[None]], **run_policy: Any) -> None:
    """Play `scene` in a world of its own; nothing that must hold may have been broken."""

    async def main() -> None:
        world = World({"backoffLimit": 3} | run_policy, seed=7, skew_s=0.0)
        await scene(world)
        await world.operator.kill()
        assert world.violations == []

    run_in_virtual_time(main())


def condition(world: World, kind: str) -> tuple[str, str]:
    """Status and reason of a condition of the job."""
    entry = next(entry for entry in world.status["conditions"] if entry["type"] == kind)
    return entry["status"], entry["reason"]


def driver_runs(world: World, head: Any) -> bool:
    """Whether the head still is there and its driver runs."""
    now = world.server.objects["pods"].get(key_of(head))
    return now is not None and "running" in now["status"]["containerStatuses"][0]["state"]


def message(world: World, kind: str) -> str:
    """What a condition of the job says."""
    return next(str(entry["message"]) for entry in world.status["conditions"] if entry["type"] == kind)
