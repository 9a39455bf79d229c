"""What of attempts that have ended is deleted?

While the job goes on: everything. When the job has ended: what `cleanPodPolicy` says; "None" keeps the pods and
what they refer to, "Running" keeps the pods that have ended by themselves, for their logs. The Service goes last
of an attempt's objects (the executor's order), so it tells whether the others are still to be deleted.
"""

from __future__ import annotations

from typing import Literal

from .types import Action, DeleteAttempt, DeletePods, Observed

CleanPodPolicy = Literal["All", "Running", "None"]


def clean_up(observed: Observed, *, except_attempt: int | None = None, policy: CleanPodPolicy = "All") -> list[Action]:
    """Deletions of what is left of all attempts but `except_attempt`."""
    if policy == "None":
        return []
    pods = tuple(
        (pod.name, pod.uid)
        for pod in observed.pods
        if pod.attempt != except_attempt and not pod.terminating and not (policy == "Running" and pod.is_over)
    )
    actions: list[Action] = [DeletePods(pods)] if pods else []
    attempts = (observed.services | observed.policies) - {except_attempt}
    return actions + [DeleteAttempt(attempt) for attempt in sorted(attempts)]


def is_clean(observed: Observed) -> bool:
    """Whether nothing of the job is left, pods that are still terminating included."""
    return not (observed.pods or observed.services or observed.policies)
