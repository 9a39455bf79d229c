"""Is the attempt's head still good?

The head is never replaced within an attempt: Ray's cluster state lives in it. So the question has five answers:
it is fine (or may still become so), it is being stopped, it has succeeded, it has refused, it is lost. A success
counts as soon as the driver has ended with 0, although the kubelet needs some seconds more to stop Ray.

A head that is taken away (drained, preempted, deleted) has its grace period in which the driver saves a checkpoint,
for which it needs its workers. Only then is it lost. One on a node that does not answer is lost at once: the node's
controller has marked it as not ready.

That the head was created is told by the attempt's Service, which is created after it: no head but a Service
means that the head was deleted. If it was seen before it went, what it was last seen as tells how it ended. A driver
reports its result last of all: with that in the status the attempt has succeeded, however its head went.
Neither head nor Service means that the head is still to be made, from the spec as it is now: an edit that came in
between ends the attempt, because what it began with is what its status says it runs.

A driver that does not answer its kubelet is given up after SILENT_LIMIT_S. The kubelet would end it too, but with all
of the pod's grace period. The time counts from when this operator saw it first: after an API server was away, the pod
in the cache is as old as that, and it is a new leader that looks at it.

What hangs while it starts is told by what it waits for. The driver gets START_LIMIT_S from the moment Ray runs (they
share an image). Volumes and network get PREPARE_LIMIT_S from the moment the head has a node, because older kubelets
do not tell them from the pull of the image. What is known to be the pull may take as long as it takes. (What keeps
workers from starting is in worker_start.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

from scaling_api import names
from scaling_api.driver import CONTAINER_DRIVER, CONTAINER_RAY
from scaling_api.reasons import Failure
from scaling_api.spec import ScalingJobSpec

from .failure import (
    UNPREPARED,
    gone,
    is_refusal,
    prepared_since,
    ray_ended,
    unresponsive,
    why_ended,
    why_waiting,
)
from .types import ContainerView, Job, Observed, PodView, Trouble

# What takes longer hangs.
START_LIMIT_S = 600.0
# The same for what may be the pull of a large image from a slow registry.
PREPARE_LIMIT_S = 3600.0
# On top of the 10 to 15 s of silence after which the kubelet says so.
SILENT_LIMIT_S = 25.0
# A head that still terminates so long after its grace period is on a node that does not answer.
GIVE_UP_ON_HEAD_S = 60.0


@dataclass(frozen=True, slots=True)
class HeadFine:
    """Nothing to do; time alone may change that after `look_again_s`."""

    look_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class HeadStopping:
    """It is being taken away, for this reason, and its driver saves a checkpoint."""

    trouble: Trouble
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


HeadVerdict: TypeAlias = HeadFine | HeadStopping | HeadMissing | HeadSucceeded | HeadLost


def judge_head(observed: Observed, job: Job, attempt: int, *, now: float) -> HeadVerdict:
    """The verdict on the current attempt's head."""
    verdict = _judge(observed, job, attempt, now)
    return HeadSucceeded() if isinstance(verdict, HeadLost) and observed.finished == attempt else verdict


def _judge(observed: Observed, job: Job, attempt: int, now: float) -> HeadVerdict:
    head = observed.head(attempt)
    if attempt in observed.unusable:
        return HeadLost(Trouble(Failure.OBJECTS_GONE, observed.unusable[attempt], blameless=True))
    last = observed.last_head(job.name, attempt)
    if last is None and attempt in observed.services:
        return HeadLost(gone(names.head_pod(job.name, attempt)))
    if last is None:
        return HeadLost(_outdated(attempt)) if _is_outdated(observed, job) else HeadMissing()
    driver = last.containers.get(CONTAINER_DRIVER)
    if last.phase == "Succeeded" or (driver is not None and driver.exit_code == 0):
        return HeadSucceeded()
    if head is None or head.is_over or (driver is not None and driver.state == "terminated"):
        return HeadLost(why_ended(last), final=is_refusal(last))
    if head.terminating and _saves(head, driver) and driver_may_run(head, now):
        return HeadStopping(why_ended(head), given_up_in_s(head, now))
    if head.terminating or head.phase == "Unknown":
        return HeadLost(why_ended(head))
    if trouble := ray_ended(head):
        return HeadLost(trouble)
    if head.silent_since is not None:
        return _silent(head, head.silent_since, now)
    return _still_starting(head, job.spec, now)


def _is_outdated(observed: Observed, job: Job) -> bool:
    """Whether an attempt that has no head yet would get one of another spec than the one that it began with."""
    current = observed.memory.current
    edited = current is not None and current.digest not in (None, observed.digest)
    return edited and not job.spec.run_policy.suspend  # which ends it anyway


def _outdated(attempt: int) -> Trouble:
    message = (
        f"attempt {attempt} had no head yet as the job was suspended, edited and resumed before the operator saw it"
    )
    return Trouble(Failure.OBJECTS_GONE, message, blameless=True)


def _saves(head: PodView, driver: ContainerView | None) -> bool:
    """Whether there is a driver that heeds SIGTERM, on a node that answers."""
    # A kubelet that says that the driver is not ready (it may have no time for its probe now) does answer.
    return driver is not None and driver.state == "running" and (head.ready or not driver.ready)


def driver_may_run(head: PodView | None, now: float) -> TypeGuard[PodView]:
    """Whether there may be a driver that still has to be waited for."""
    if head is None or head.is_over:
        return False
    left_s = given_up_in_s(head, now)
    if left_s is not None and left_s <= 0:
        return False
    driver = head.containers.get(CONTAINER_DRIVER)
    return driver is None or driver.state != "terminated"


def given_up_in_s(pod: PodView, now: float) -> float | None:
    """Seconds for which a pod that terminates is waited for; None while it does not."""
    return pod.gone_by + GIVE_UP_ON_HEAD_S - now if pod.gone_by is not None else None


def _silent(head: PodView, since: float, now: float) -> HeadVerdict:
    left_s = since + SILENT_LIMIT_S - now
    if left_s > 0:
        return HeadFine(look_again_s=left_s)
    began = since if head.unready_since is None else min(since, head.unready_since)
    return HeadLost(unresponsive(head, CONTAINER_DRIVER, now - began))


def _still_starting(head: PodView, spec: ScalingJobSpec, now: float) -> HeadVerdict:
    waiting, trouble = _waits_since(head, spec), why_waiting(head, now=now)
    if waiting is None or (trouble is not None and trouble.reason != Failure.INIT_STUCK):
        return HeadFine()
    since, limit_s, what = waiting
    left_s = since + limit_s - now
    if left_s > 0:
        return HeadFine(look_again_s=left_s)
    return HeadLost(
        Trouble(
            Failure.INIT_STUCK,
            f"pod {head.name} has waited for {what} for {limit_s:.0f} s; kubectl get events says why, "
            "and kubectl describe pod while the next one waits",
        )
    )


def _waits_since(head: PodView, spec: ScalingJobSpec) -> tuple[float, float, str] | None:
    """Since when the head waits for something that has a limit, that limit in seconds, and for what."""
    driver, ray = head.containers.get(CONTAINER_DRIVER), head.containers.get(CONTAINER_RAY)
    if driver is not None and driver.state == "running":
        return None
    if ray is not None and ray.started_at is not None:
        return ray.started_at, START_LIMIT_S, "its driver to start"
    since = prepared_since(head)
    return (since, PREPARE_LIMIT_S, f"{UNPREPARED} (it mounts {_mounted(spec)})") if since is not None else None


def _mounted(spec: ScalingJobSpec) -> str:
    """What of the user's a pod cannot start without, by name."""
    storage = spec.storage
    found = [f"claim {storage.claim_name}"] if storage is not None and storage.claim_name else []
    for volume in spec.cluster.volumes:
        for kind, name in (
            ("claim", volume.claim_name),
            ("Secret", volume.secret_name),
            ("ConfigMap", volume.config_map_name),
        ):
            found += [f"{kind} {name}"] if name else []
    return ", ".join(found) or "none of the job's own"
