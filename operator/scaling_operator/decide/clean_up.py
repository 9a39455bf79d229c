"""What of attempts that have ended is deleted?

While the job goes on: everything. When the job has ended: what `cleanPodPolicy` says; "None" keeps the pods and
what they refer to, "Running" keeps the pods that have ended by themselves, for their logs. The Service goes last
of an attempt's objects (the executor's order), so it tells whether the others are still to be deleted.
"""

from __future__ import annotations

from typing import Literal

from scaling_api.driver import CONTAINER_DRIVER

from .head_loss import given_up_in_s
from .types import Action, DeleteAttempt, DeletePods, Observed, PodView

CleanPodPolicy = Literal["All", "Running", "None"]


def clean_up(observed: Observed, *, except_attempt: int | None = None, policy: CleanPodPolicy = "All") -> list[Action]:
    """Deletions of what is left of all attempts but `except_attempt`."""
    if policy == "None":
        return []
    pods = tuple(
        (pod.name, pod.uid)
        for pod in observed.pods
        if pod.attempt != except_attempt and not pod.terminating and not (policy == "Running" and _ends_by_itself(pod))
    )
    actions: list[Action] = [DeletePods(pods)] if pods else []
    attempts = (observed.services | observed.policies) - {except_attempt}
    return actions + [DeleteAttempt(attempt) for attempt in sorted(attempts)]


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
