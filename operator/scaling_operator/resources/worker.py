"""Worker pods: one container that waits for the head's port and then becomes a Ray node.

The waiting is a loop in bash (waiting.py) and not an init container with `ray health-check`: every start of Ray's
command line costs seconds of CPU.

A template is a worker pod without its slot; `worker_pod` fills in name, index and incarnation. "Ready" means
that the raylet answers: Ray serves gRPC's health protocol on its port, so the kubelet finds out without starting
a process, and without Ray's token. A raylet that has answered once and then no longer does (frozen, or out of
reach of its own node) is ended, so that another pod can take its slot.
"""

from __future__ import annotations

import json
from typing import Any

from scaling_api import names
from scaling_api.driver import CONTAINER_RAY, PORT_GCS, RAY_RESOURCE_SLOT
from scaling_api.names import WorkerSlot
from scaling_api.spec import ScalingJob, WorkerGroup

from .environment import ray_environment
from .identity import worker_labels
from .pod import RAISE_OPEN_FILES, build_container, build_pod, container_resources
from .quantities import NodeSize, node_size, threads_per_process
from .volumes import common_mounts, common_volumes
from .waiting import wait_for_head

GRACE_PERIOD_S = 30
# Fixed, because a probe must know it; outside of the range that Ray hands out by itself.
PORT_RAYLET = 6380


def build_worker_template(job: ScalingJob, attempt: int, group: WorkerGroup, *, image: str) -> dict[str, Any]:
    """The template of the group's pods; `image` is used when the job names none."""
    size = node_size(group.resources)
    name, namespace = job.metadata.name, job.metadata.namespace or ""
    wait = wait_for_head(names.ray_cluster(name, attempt), namespace, PORT_GCS)
    ray = build_container(
        job,
        CONTAINER_RAY,
        image=image,
        command=[
            "bash",
            "-c",
            "; ".join((RAISE_OPEN_FILES, wait, _ray_start(size, group.slots))),
        ],
        env=ray_environment(
            job,
            attempt,
            group=group.name,
            gcs_address=f"{names.head_address(name, attempt, namespace)}:{PORT_GCS}",
            threads=threads_per_process(group.resources, group.slots),
        ),
        mounts=common_mounts(job),
        resources=container_resources(group.resources),
        ports=[{"name": "raylet", "containerPort": PORT_RAYLET}],
        **_probes(),
    )
    return build_pod(
        job,
        attempt,
        name="",
        labels=worker_labels(job, attempt, group.name),
        grace_period_s=GRACE_PERIOD_S,
        containers=[ray],
        volumes=common_volumes(job, shm_bytes=size.object_store_bytes),
    )


def _probes() -> dict[str, Any]:
    health = {"grpc": {"port": PORT_RAYLET}}
    return {
        # However long the head takes to come: nothing is wrong with a worker that waits for it. Ray is never up
        # sooner than after 5 s, and every failed probe is an Event that looks like trouble.
        "startupProbe": {
            **health,
            "initialDelaySeconds": 5,
            "periodSeconds": 2,
            "timeoutSeconds": 1,
            "failureThreshold": 1_000_000,
        },
        # Fails seconds before the next one does: so the pod keeps why it was ended (decide/failure.py).
        "readinessProbe": {**health, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2},
        # Two answers in a row that take longer than 4 s. The raylet answers from threads of its own, also on a loaded
        # machine. Ray's command heeds SIGTERM when its raylet alone is frozen; else it takes the pod's grace period, as
        # the kubelet knows no other for a pod that is not restarted.
        "livenessProbe": {**health, "periodSeconds": 4, "timeoutSeconds": 4, "failureThreshold": 2},
    }


def worker_pod(
    template: dict[str, Any], *, job: str, attempt: int, slot: WorkerSlot, incarnation: int
) -> dict[str, Any]:
    """The pod of `slot` from its group's template, whose parts it shares: treat it as read-only."""
    metadata = template["metadata"]
    labels = {
        **metadata["labels"],
        names.LABEL_INDEX: str(slot.index),
        names.LABEL_INCARNATION: str(incarnation),
    }
    name = names.worker_pod(job, attempt, slot, incarnation)
    return {**template, "metadata": {**metadata, "name": name, "labels": labels}}


def _ray_start(size: NodeSize, slots: int) -> str:
    # One unit of the slot resource per training process: by CPUs alone Ray would crowd the processes of a job
    # into one large pod.
    resources = json.dumps({RAY_RESOURCE_SLOT: slots}, separators=(",", ":"))
    arguments = [
        # The absolute name that the wait has found: all of Ray's processes look it up.
        f'exec ray start --address="$head:{PORT_GCS}" --block --disable-usage-stats --include-log-monitor=false',
        f"--node-manager-port={PORT_RAYLET}",
        f"--num-cpus={max(size.cpus, slots)} --num-gpus={size.gpus} --resources='{resources}'",
        f"--object-store-memory={size.object_store_bytes}",
    ]
    if size.memory_bytes is not None:
        arguments.append(f"--memory={size.memory_bytes}")
    return " ".join(arguments)
