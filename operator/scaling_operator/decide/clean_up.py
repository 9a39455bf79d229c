"""What of attempts that have ended is deleted?

While the job goes on: everything. When the job has ended: what `cleanPodPolicy` says. "Running" keeps the pods that
have ended by themselves, for their logs; "None" keeps what they refer to as well, and lets workers end by themselves.
Nothing works on for a job that has ended, whatever the policy: a head whose driver still runs goes at once, and what
waits or works without one soon after. The Service goes last of an attempt's objects (the executor's order), so it
tells whether the others are still to be deleted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from scaling_api.driver import CONTAINER_DRIVER

from .head_loss import given_up_in_s
from .types import Action, DeleteAttempt, DeletePods, Observed, PodView

CleanPodPolicy = Literal["All", "Running", "None"]

# Ray on a worker ends by itself within half a minute of its head; a worker that never joined would wait for ever.
FOLLOWS_ITS_HEAD_S = 120.0


def clean_up(observed: Observed, *, except_attempt: int | None = None) -> list[Action]:
    """Deletions of what is left of all attempts but `except_attempt`, while the job goes on."""
    actions = _delete(pod for pod in observed.pods if pod.attempt != except_attempt)
    return actions + _delete_attempts(observed, except_attempt)


def clean_up_after_the_end(
    observed: Observed, policy: CleanPodPolicy, ended_at: float, *, now: float
) -> tuple[list[Action], float | None]:
    """Deletions of what `policy` does not keep of a job that ended then, and seconds until there may be more."""
    if policy == "All":
        return clean_up(observed), None
    alive = [pod for pod in observed.pods if not _ends_by_itself(pod)]
    if policy == "Running":
        return _delete(alive) + _delete_attempts(observed, None), None
    left_s = ended_at + FOLLOWS_ITS_HEAD_S - now
    if left_s <= 0:
        return _delete(alive), None
    heads = [pod for pod in alive if pod.is_head]
    return _delete(heads), left_s if len(alive) > len(heads) else None


def _delete(pods: Iterable[PodView]) -> list[Action]:
    found = tuple((pod.name, pod.uid) for pod in pods if not pod.terminating)
    return [DeletePods(found)] if found else []


def _delete_attempts(observed: Observed, but: int | None) -> list[Action]:
    return [DeleteAttempt(attempt) for attempt in sorted((observed.services | observed.policies) - {but})]


def _ends_by_itself(pod: PodView) -> bool:
    # Once the driver has ended, the kubelet takes some seconds to stop the Ray container beside it.
    driver = pod.containers.get(CONTAINER_DRIVER)
    return pod.is_over or (driver is not None and driver.state == "terminated")


def is_clean(observed: Observed, now: float) -> bool:
    """Whether nothing of the job is left but pods that nobody will see go."""
    return not (observed.services or observed.policies) and len(given_up(observed, now)) == len(observed.pods)


def given_up(observed: Observed, now: float) -> list[PodView]:
    """Pods that still terminate long after their grace period, on nodes that do not answer."""
    return [pod for pod in observed.pods if (left_s := given_up_in_s(pod, now)) is not None and left_s <= 0]
