"""Is the attempt's head still good?

The head is never replaced within an attempt: Ray's cluster state lives in it. So the question has four answers:
it is fine (or may still become so), it has succeeded, it has refused, it is lost. A success counts as soon as the
driver has ended with 0, although the kubelet needs some seconds more to stop Ray.

That the head was created is told by the attempt's Service, which is created after it: no head but a Service
means that the head was deleted.

What hangs while it starts is told by what it waits for. Volumes and network get START_LIMIT_S from the moment it
has a node, the driver gets it from the moment Ray runs (they share an image). In between lies the pull of the
image, which may take as long as it takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from scaling_api import names
from scaling_api.driver import CONTAINER_DRIVER, CONTAINER_RAY
from scaling_api.reasons import Failure

from .failure import deleted, is_refusal, why_ended, why_waiting
from .types import Observed, PodView, Trouble

# What takes longer hangs.
START_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class HeadFine:
    """Nothing to do; time alone may change that after `look_again_s`."""

    look_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class HeadMissing:
    """It has not been created yet."""


@dataclass(frozen=True, slots=True)
class HeadSucceeded:
    """The driver has done its work."""


@dataclass(frozen=True, slots=True)
class HeadLost:
    """The attempt is over. `final` means that another attempt would meet the same."""

    trouble: Trouble
    final: bool = False


HeadVerdict: TypeAlias = HeadFine | HeadMissing | HeadSucceeded | HeadLost


def judge_head(observed: Observed, job: str, attempt: int, *, now: float) -> HeadVerdict:
    """The verdict on the current attempt's head."""
    head = observed.head(attempt)
    if attempt in observed.unusable:
        return HeadLost(Trouble(Failure.OBJECTS_GONE, observed.unusable[attempt]))
    if head is None:
        name = names.head_pod(job, attempt)
        was_there = attempt in observed.services or name in observed.vanished
        return HeadLost(deleted(name)) if was_there else HeadMissing()
    driver = head.containers.get(CONTAINER_DRIVER)
    if head.phase == "Succeeded" or (driver is not None and driver.exit_code == 0):
        return HeadSucceeded()
    if head.phase == "Failed" or (driver is not None and driver.state == "terminated"):
        return HeadLost(why_ended(head), final=is_refusal(head))
    if head.terminating or head.phase == "Unknown":
        return HeadLost(why_ended(head))
    if trouble := _ray_restarted(head):
        return HeadLost(trouble)
    return _still_starting(head, now)


def _ray_restarted(head: PodView) -> Trouble | None:
    ray = head.containers.get(CONTAINER_RAY)
    if ray is None or (ray.restarts == 0 and ray.state != "terminated"):
        return None
    ended = f" ({ray.reason})" if ray.reason else ""
    return Trouble(
        Failure.RAY_RESTARTED,
        f"the Ray container of pod {head.name} ended{ended}, and the cluster's state with it; if it repeats, raise "
        "cluster.head.resources.limits.memory",
    )


def _still_starting(head: PodView, now: float) -> HeadVerdict:
    waiting = _waits_since(head)
    if waiting is None or why_waiting(head, now=now) is not None:
        return HeadFine()
    since, what = waiting
    left_s = since + START_LIMIT_S - now
    if left_s > 0:
        return HeadFine(look_again_s=left_s)
    return HeadLost(
        Trouble(
            Failure.INIT_STUCK,
            f"pod {head.name} has waited for {what} for {START_LIMIT_S:.0f} s; "
            f"kubectl describe pod {head.name} tells what is wrong",
        )
    )


def _waits_since(head: PodView) -> tuple[float, str] | None:
    """Since when the head waits for something that has a limit, and for what."""
    driver, ray = head.containers.get(CONTAINER_DRIVER), head.containers.get(CONTAINER_RAY)
    if driver is not None and driver.state == "running":
        return None
    if ray is not None and ray.started_at is not None:
        return ray.started_at, "its driver to start"
    if head.scheduled_at is not None and not head.is_set_up:
        return head.scheduled_at, "its volumes and network"
    return None
