"""Why did a pod end, and why does one not start?

The most telling fact comes first: what the driver says of itself, unless that may be a mere consequence; then the
out-of-memory killer, then who took the pod away (its node, or a disruption), then that Ray was restarted under
the driver, then that its kubelet ended what no longer answered, then the bare exit code. That of SIGKILL comes last
because everything that is taken away may end with it.
A waiting pod is no failure: its trouble is shown and it is given time.
"""

from __future__ import annotations

import json

from scaling_api.driver import CONTAINER_DRIVER, CONTAINER_RAY, ExitCode
from scaling_api.reasons import Failure
from scaling_api.redaction import redacted

from .clock import to_rfc3339
from .types import ContainerView, PodView, Trouble

_IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
_CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError"})
# Others are put into pods by whoever runs the cluster (a service mesh, say); how they fare says nothing of the job.
_OURS = (CONTAINER_DRIVER, CONTAINER_RAY)
_FAILURES = {str(failure): failure for failure in Failure}
_EXIT_KILLED = 137  # 128 + SIGKILL: the mark of the out-of-memory killer, when nobody else took the pod away
# How long before its end a pod that was ended for its silence was not ready at the least. One that was killed in full
# health is not ready from its end on, by clocks of whole seconds.
SILENT_FOR_S = 2.0
_LAST_LINES = 3
_LAST_CHARACTERS = 400
# The scheduler says "no" to many pods for a moment, while other pods or nodes come and go.
UNSCHEDULABLE_AFTER_S = 10.0
# Attaching a disk takes most of a minute in some clouds.
SLOW_AFTER_S = 60.0
# Up to Kubernetes 1.35 a kubelet says that a pod is ready to start containers only after its first pull: until then
# this is all that is known of what it waits for.
UNPREPARED = "its volumes, its network or, before Kubernetes 1.36, its image"

_DISRUPTIONS = {
    "PreemptionByScheduler": (
        Failure.PREEMPTED,
        "was preempted by a pod of higher priority; set priorityClassName by cluster.podOverrides to be spared",
    ),
    "DeletionByTaintManager": (Failure.NODE_LOST, "was on a node that stopped answering or was tainted"),
    "EvictionByEvictionAPI": (Failure.EVICTED, "was evicted, as in draining its node"),
    "DeletionByPodGC": (Failure.NODE_LOST, "was on a node that no longer exists"),
    "TerminationByKubelet": (Failure.EVICTED, "was ended by its node"),
}
_POD_REASONS = {
    "Evicted": (Failure.EVICTED, "was evicted by its node"),
    "Preempting": (Failure.PREEMPTED, "was preempted on its node"),
    "NodeLost": (Failure.NODE_LOST, "was on a node that stopped answering"),
    "NodeShutdown": (Failure.PREEMPTED, "was on a node that shut down"),
    "Terminated": (Failure.PREEMPTED, "was on a node that shut down"),
}
# What a driver says of itself that may follow from something else; it was not there to see that.
_CONSEQUENCES = frozenset({Failure.DRIVER_FAILED, Failure.STOPPED, Failure.UNRESPONSIVE})
# A node evicts what uses more disk or memory than was asked for. That may be the job's own doing, and would be met
# again; all others are the cluster's own affairs.
_BLAMED = frozenset({"Evicted", "TerminationByKubelet"})


def why_ended(pod: PodView) -> Trouble:
    """Why a pod that has ended, or is being taken away, did so."""
    main = pod.containers.get(CONTAINER_DRIVER if pod.is_head else CONTAINER_RAY)
    told = _own_word(main) if main is not None else None
    if told is not None and told.reason not in _CONSEQUENCES:
        return told
    for view in _ours(pod):
        if view.state == "terminated" and view.reason == "OOMKilled":
            return _out_of_memory(pod, view, "was killed for using more memory than its limit")
    if taken := _taken_away(pod):
        return taken
    if pod.is_head and (ray := _ray_restarted(pod)):
        return ray
    if told is not None and told.reason != Failure.STOPPED:
        return told
    if pod.terminating:
        return deleted(pod.name)
    if main is not None and (silent := _unresponsive(pod, main)):
        return silent
    if told is not None:
        return told
    if pod.end_unseen and (main is None or main.exit_code is None):
        return gone(pod.name)
    if main is not None and main.exit_code == _EXIT_KILLED:
        return _out_of_memory(pod, main, "was killed (exit code 137), most likely for lack of memory")
    if main is not None and main.exit_code is not None:
        said = f": {_last_words(main.message)}" if main.message.strip() else ""
        return Trouble(
            Failure.DRIVER_FAILED,
            f"container {main.name} of pod {pod.name} ended with exit code {main.exit_code}{said}; with "
            "runPolicy.cleanPodPolicy Running the last attempt's pod stays for kubectl logs",
        )
    return deleted(pod.name)


def deleted(name: str) -> Trouble:
    """A pod is gone and nobody said why."""
    return Trouble(Failure.POD_DELETED, f"pod {name} was deleted, not by the operator")


def gone(name: str) -> Trouble:
    """A pod is gone and nobody saw how.

    One that ends by itself stays, so somebody deleted it; what the cluster does is not the job's fault, and who did it
    cannot be known any more.
    """
    sentence = f"pod {name} is gone, and the operator did not see who took it"
    return Trouble(Failure.POD_DELETED, sentence, blameless=True)


def why_waiting(pod: PodView, *, now: float) -> Trouble | None:
    """What keeps a pod from starting, or None when nothing is known to."""
    if pod.unschedulable and now >= pod.created_at + UNSCHEDULABLE_AFTER_S:
        return Trouble(
            Failure.UNSCHEDULABLE,
            f"no node takes pod {pod.name}: {pod.unschedulable}; lower its resources, add tolerations by "
            "cluster.podOverrides, or add nodes",
        )
    if trouble := obstruction(pod):
        return trouble
    since = prepared_since(pod)
    if since is not None and now >= since + SLOW_AFTER_S:
        return Trouble(
            Failure.INIT_STUCK,
            f"pod {pod.name} waits for {UNPREPARED} since {to_rfc3339(since)}; "
            f"kubectl describe pod {pod.name} tells what is wrong",
        )
    return None


def obstruction(pod: PodView) -> Trouble | None:
    """What keeps a container of a pod from starting, by its kubelet's word; None when nothing does."""
    for view in pod.containers.values():
        if view.state != "waiting":
            continue
        if view.reason in _IMAGE_REASONS and view.name not in _OURS:
            return Trouble(
                Failure.IMAGE_PULL_FAILED,
                f"the image of container {view.name}, which is not the job's but was added to pod {pod.name}, cannot "
                f"be pulled ({view.reason}): {view.message}; ask whoever runs the cluster",
            )
        if view.reason in _IMAGE_REASONS:
            return Trouble(
                Failure.IMAGE_PULL_FAILED,
                f"the image of pod {pod.name} cannot be pulled ({view.reason}): {view.message}; check cluster.image "
                "and cluster.imagePullSecrets",
            )
        if view.reason in _CONFIG_REASONS:
            return Trouble(
                Failure.CONTAINER_CONFIG,
                f"container {view.name} of pod {pod.name} cannot be made: {view.message}; create what is missing",
            )
    return None


def prepared_since(pod: PodView) -> float | None:
    """Since when a pod has waited on its node for what UNPREPARED says; None when it does not."""
    return pod.scheduled_at if not pod.is_set_up and not pod.is_over else None


def known_in_s(pod: PodView, *, now: float) -> float | None:
    """Seconds until `why_waiting` may have another answer although the pod stays as it is."""
    since = prepared_since(pod)
    moments = [pod.created_at + UNSCHEDULABLE_AFTER_S] if pod.unschedulable else []
    moments += [since + SLOW_AFTER_S] if since is not None else []
    return min((moment - now for moment in moments if moment > now), default=None)


def ray_ended(head: PodView) -> Trouble | None:
    """Why a head whose driver runs is none any more: its Ray container has ended, or has been restarted."""
    ray = head.containers.get(CONTAINER_RAY)
    return _lost_state(head, ray) if ray is not None and ray.state == "terminated" else _ray_restarted(head)


def does_not_answer(head: PodView) -> bool:
    """Whether the driver runs, and has answered its kubelet, and does not answer it now."""
    driver = head.containers.get(CONTAINER_DRIVER)
    return driver is not None and driver.state == "running" and driver.is_up and not driver.ready


def unresponsive(pod: PodView, container: str, silent_s: float) -> Trouble:
    """A container has not answered its kubelet for so long."""
    return Trouble(
        Failure.UNRESPONSIVE,
        f"container {container} of pod {pod.name} did not answer its kubelet for more than {silent_s:.0f} s: its "
        f"processes were frozen, or got no CPU or memory; if it comes again, raise {_where(pod)}.resources or look at "
        "the node",
    )


def is_refusal(pod: PodView) -> bool:
    """Whether the head's driver refused: what is wrong is the user's, and would be met again."""
    driver = pod.containers.get(CONTAINER_DRIVER)
    return driver is not None and driver.exit_code == ExitCode.REFUSED


def _ours(pod: PodView) -> list[ContainerView]:
    return [pod.containers[name] for name in _OURS if name in pod.containers]


def _own_word(main: ContainerView) -> Trouble | None:
    """What the driver left in its termination message, or says by its exit code."""
    if not main.exit_code:
        return None
    try:
        said = json.loads(main.message)
        return Trouble(_FAILURES[said["reason"]], _writable(str(said["message"])))
    except (ValueError, TypeError, KeyError, RecursionError):  # whatever somebody wrote there
        if main.exit_code == ExitCode.REFUSED:
            return Trouble(Failure.USER_ERROR, _last_words(main.message) or "the driver refused the job; see its log")
        if main.exit_code == ExitCode.STOPPED:
            return Trouble(Failure.STOPPED, "the driver was asked to stop and saved a checkpoint")
        return None


def _writable(text: str) -> str:
    """`text` with halves of characters, which JSON can hold and no status can, replaced."""
    return text.encode(errors="replace").decode()


def _last_words(message: str) -> str:
    """The end of a termination message, which without JSON is the end of a log."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return redacted(" | ".join(lines[-_LAST_LINES:]))[-_LAST_CHARACTERS:]


def _ray_restarted(head: PodView) -> Trouble | None:
    # That it has ended says nothing here: the kubelet stops it when the driver has ended.
    ray = head.containers.get(CONTAINER_RAY)
    return _lost_state(head, ray) if ray is not None and ray.restarts > 0 else None


def _lost_state(head: PodView, ray: ContainerView) -> Trouble:
    ended = f" ({ray.reason})" if ray.reason else ""
    return Trouble(
        Failure.RAY_RESTARTED,
        f"the Ray container of pod {head.name} ended{ended}, and the cluster's state with it; if it repeats, raise "
        "cluster.head.resources.limits.memory",
    )


def _unresponsive(pod: PodView, main: ContainerView) -> Trouble | None:
    """Whether its kubelet ended `main` because its probes failed.

    A container's status does not tell that. But readiness fails before liveness does, and the pod keeps since when. A
    driver has exit codes of its own; in a worker's container it is Ray's command that heeds SIGTERM, when that comes.
    """
    if pod.is_head and main.exit_code not in (_EXIT_KILLED, ExitCode.STOPPED):
        return None
    if main.ran is None or pod.unready_since is None:
        return None
    began, ended = main.ran
    silent_s = ended - pod.unready_since
    if pod.unready_since <= began or silent_s < SILENT_FOR_S:
        return None
    return unresponsive(pod, main.name, silent_s)


def _taken_away(pod: PodView) -> Trouble | None:
    """What its node says of it, else who had it deleted."""
    if pod.reason in _POD_REASONS:
        reason, what = _POD_REASONS[pod.reason]
        told = f": {pod.message}" if pod.message else ""
        return Trouble(reason, f"pod {pod.name} {what}{told}", blameless=pod.reason not in _BLAMED)
    if pod.disruption in _DISRUPTIONS:
        reason, what = _DISRUPTIONS[pod.disruption]
        return Trouble(reason, f"pod {pod.name} {what}", blameless=pod.disruption not in _BLAMED)
    return None


def _out_of_memory(pod: PodView, view: ContainerView, what: str) -> Trouble:
    return Trouble(
        Failure.OUT_OF_MEMORY,
        f"container {view.name} of pod {pod.name} {what}; raise {_where(pod)}.resources.limits.memory or lower "
        "training.batchSize",
    )


def _where(pod: PodView) -> str:
    """The part of the spec that is about the pod."""
    return f"cluster.workers[{pod.slot.group}]" if pod.slot is not None else "cluster.head"
