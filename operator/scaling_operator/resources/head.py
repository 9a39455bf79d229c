"""The head pod: Ray's head as a native sidecar, the driver as the main container.

A native sidecar is an init container that keeps running: it starts first, and the kubelet stops it when the
main container ends. So the driver's exit code is the pod's phase, and Ray outlives the driver's last word.
Ray's container has no startup probe on purpose: the driver starts at once and its imports run beside Ray's start.

The driver is asked by HTTP whether it answers, and is ended when it does not, frozen as it is; of Ray's processes the
driver finds that out itself (a probe would have the kubelet restart Ray under it).

The two share the process namespace (Ray finds its raylet by looking for the process), /tmp and /dev/shm.
Ray's dashboard, autoscaler monitor and log monitor (in worker pods as well) are left out: each is a Python process
that costs up to seconds of CPU at every start, and nothing of ours asks them anything.
"""

from __future__ import annotations

from typing import Any

from scaling_api import names
from scaling_api.driver import (
    CONTAINER_DRIVER,
    CONTAINER_RAY,
    DRIVER_REQUESTS,
    HEALTH_PATH,
    PORT_GCS,
    PORT_METRICS,
    TERMINATION_LOG,
)
from scaling_api.spec import Resources, ScalingJob

from .environment import driver_environment, ray_environment
from .identity import HEAD_GROUP, head_labels
from .pod import RAISE_OPEN_FILES, build_container, build_pod, container_resources
from .quantities import NodeSize, node_size, threads_per_process
from .volumes import common_mounts, common_volumes, driver_mounts, driver_volumes

# Long enough for a checkpoint after SIGTERM; the driver ends as soon as it has saved it.
GRACE_PERIOD_S = 120


def build_head(job: ScalingJob, attempt: int, *, image: str, progress_url: str) -> dict[str, Any]:
    """The attempt's head pod; `image` is used when the job names none."""
    resources = job.spec.cluster.head.resources
    size = node_size(resources)
    env = ray_environment(
        job,
        attempt,
        group=HEAD_GROUP,
        gcs_address=f"127.0.0.1:{PORT_GCS}",
        threads=threads_per_process(resources, 1),
    )
    mounts = common_mounts(job)
    ray = build_container(
        job,
        CONTAINER_RAY,
        image=image,
        command=["bash", "-c", f"{RAISE_OPEN_FILES}; {_ray_start(size)}"],
        env=env,
        mounts=mounts,
        resources=container_resources(resources),
        restartPolicy="Always",
        ports=[{"name": "gcs", "containerPort": PORT_GCS}],
    )
    driver = build_container(
        job,
        CONTAINER_DRIVER,
        image=image,
        command=["scaling-driver"],
        env={**env, **driver_environment(job, attempt, progress_url=progress_url)},
        mounts=mounts + driver_mounts(),
        resources=_driver_resources(resources),
        terminationMessagePath=TERMINATION_LOG,
        ports=[{"name": "metrics", "containerPort": PORT_METRICS}],
        **_probes(),
    )
    return build_pod(
        job,
        attempt,
        name=names.head_pod(job.metadata.name, attempt),
        labels=head_labels(job, attempt),
        grace_period_s=GRACE_PERIOD_S,
        shareProcessNamespace=True,
        initContainers=[ray],
        containers=[driver],
        volumes=common_volumes(job, shm_bytes=size.object_store_bytes) + driver_volumes(job, attempt),
    )


def _probes() -> dict[str, Any]:
    health = {"httpGet": {"path": HEALTH_PATH, "port": PORT_METRICS}}
    return {
        # The port opens once a second or two of imports are done, and much later where there is little CPU. Nobody is
        # ended for that: a driver of an image made for 0.1.0 has no such port, and a new one ends without it.
        "startupProbe": {
            **health,
            "initialDelaySeconds": 4,
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 1_000_000,
        },
        # Seven in a row without an answer take 35 to 40 s: more than user code keeps the interpreter's lock for. The
        # kubelet gives a pod that is not restarted the whole of its grace period then, whatever the probe says of it.
        "livenessProbe": {**health, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 7},
        # Fails long before that: from there the operator counts for itself (decide/head_loss.py), and the pod keeps why
        # its driver was ended, for an operator that was away (decide/failure.py).
        "readinessProbe": {**health, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 2},
    }


def _ray_start(size: NodeSize) -> str:
    # No CPUs and GPUs: Ray shall place no training on the head.
    arguments = [
        "exec ray start --head --block --disable-usage-stats",
        f"--port={PORT_GCS} --include-dashboard=false --no-monitor --include-log-monitor=false",
        f"--num-cpus=0 --num-gpus=0 --object-store-memory={size.object_store_bytes}",
    ]
    if size.memory_bytes is not None:
        arguments.append(f"--memory={size.memory_bytes}")
    return " ".join(arguments)


def _driver_resources(head: Resources) -> dict[str, Any]:
    """The driver may use as much as the Ray container beside it; a quota that demands limits then finds them."""
    limits = {name: head.limits[name] for name in ("cpu", "memory") if name in head.limits}
    return {"requests": dict(DRIVER_REQUESTS), **({"limits": limits} if limits else {})}
