"""What keeps a worker from starting, such that another pod might?

A head that is up shows that image, Secrets and volumes are there. What keeps a worker from starting all the same lies
with its node, and another pod may get another one. So it has START_LIMIT_S, or PREPARE_LIMIT_S where the wait may be
for a slow pull, counted from the moment at which it began to wait, or from that at which the head was up if that is
later. Without a limit are the wait for a node, since another pod would find no room either, and what is known to be a
pull of the image that goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

from scaling_api.driver import CONTAINER_RAY
from scaling_api.reasons import Failure

from .failure import UNPREPARED, obstruction, prepared_since
from .head_loss import PREPARE_LIMIT_S, START_LIMIT_S
from .types import PodView, Trouble


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Why a worker has not started; `left_s` seconds from now (0 or less: now) it is to be replaced."""

    trouble: Trouble
    left_s: float


def hindrance(worker: PodView, head: PodView | None, *, now: float) -> Hindrance | None:
    """What has a limit of all that a living worker may wait for; None when there is no such thing."""
    head_up_at = _ray_started_at(head) if head is not None else None
    waits = _waits(worker)
    if head_up_at is None or waits is None:
        return None
    since, limit_s, trouble = waits
    return Hindrance(trouble, max(since, head_up_at) + limit_s - now)


def _waits(worker: PodView) -> tuple[float, float, Trouble] | None:
    """Since when a worker waits, for how many seconds it may, and what it will have been lost to after that."""
    trouble = obstruction(worker)
    if trouble is not None and worker.obstructed_since is not None:
        return worker.obstructed_since, START_LIMIT_S, trouble
    since = prepared_since(worker)
    if since is not None:
        what = f"it waited for {UNPREPARED}"
        return since, PREPARE_LIMIT_S, _stuck(worker, what, PREPARE_LIMIT_S, "kubectl get events says why")
    started_at = _ray_started_at(worker)
    if started_at is not None and not worker.containers[CONTAINER_RAY].is_up:
        helps = "kubectl logs of the next one may say why"
        return started_at, START_LIMIT_S, _stuck(worker, "Ray did not come up", START_LIMIT_S, helps)
    return None


def _stuck(worker: PodView, what: str, limit_s: float, helps: str) -> Trouble:
    sentence = f"pod {worker.name} did not start, while the head was up: {what} for {limit_s:.0f} s; {helps}"
    return Trouble(Failure.INIT_STUCK, sentence)


def _ray_started_at(pod: PodView) -> float | None:
    ray = pod.containers.get(CONTAINER_RAY)
    return ray.started_at if ray is not None else None
