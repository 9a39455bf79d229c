"""Whether a pod may report for a job: it must be the head pod of the job's current attempt. Pure.

The caches may be behind: what could become right by itself a moment later is `Later`, and the sender tries
again; what cannot is `Refuse`.
"""

from __future__ import annotations

from dataclasses import dataclass

from scaling_api import names

from ..runtime.objects import Object
from .tokens import PodIdentity


@dataclass(frozen=True, slots=True)
class Admit:
    """The report counts."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The report does not count and never will; `status` is the HTTP answer."""

    status: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Later:
    """The caches do not show yet what the sender must be; try again."""

    sentence: str


def judge_sender(
    sender: PodIdentity, *, namespace: str, job_name: str, attempt: int, job: Object | None, pod: Object | None
) -> Admit | Refuse | Later:
    """Judge a report of `attempt` for the job `namespace`/`job_name`.

    `job` is that job from the cache, `pod` the pod of the sender's name, each None when the cache has none.
    """
    head = names.head_pod(job_name, attempt)
    if sender.namespace != namespace or sender.name != head:
        return Refuse(
            403, f"pod {sender.namespace}/{sender.name} may not report for attempt {attempt} of {namespace}/{job_name}"
        )
    if job is None:
        return Refuse(404, f"there is no ScalingJob {namespace}/{job_name}")
    current = (job.get("status") or {}).get("attempt") or 0
    if attempt < current:
        return Refuse(409, f"attempt {attempt} of {namespace}/{job_name} is over; attempt {current} is current")
    if attempt > current:
        return Later(f"attempt {attempt} of {namespace}/{job_name} is not known here yet")
    if pod is None:
        return Later(f"pod {namespace}/{head} is not known here yet")
    labels = pod["metadata"].get("labels") or {}
    expected = {
        names.LABEL_JOB: job_name,
        names.LABEL_ATTEMPT: str(attempt),
        names.LABEL_ROLE: names.ROLE_HEAD,
    }
    if (
        pod["metadata"]["uid"] != sender.uid
        or any(labels.get(key) != value for key, value in expected.items())
        or not _owned_by(pod, job)
    ):
        return Refuse(403, f"pod {namespace}/{head} is not the head of the current attempt")
    return Admit()


def _owned_by(pod: Object, job: Object) -> bool:
    """Labels can be set by whoever may make pods in the namespace; the owner's uid is then unknown or wrong."""
    owners = pod["metadata"].get("ownerReferences") or []
    return any(owner.get("controller") and owner.get("uid") == job["metadata"]["uid"] for owner in owners)
