"""Environment variables of Ray's and the driver's containers.

Three layers, each named once in the result: tuning, which a user's own value beats; the user's; and what the
operator's contract with the pods needs. (The spec's rules refuse the latter's names to users.)

The tuning was measured on small machines, where every process start costs seconds:
- Ray Train polls its workers every 2 s and `report()` blocks until the next poll: 0.2 s gave back 3.5 s per run.
- On SIGTERM Ray drains a node for 30 s, in which nothing of ours would move: workers are told to just go.
- The GCS declares a silent node dead after about 25 s by default, a worker lives 57 s longer than its head.
  Here a closed connection counts after 5 s and a hung one after about 25, so that a node under load is not
  taken for dead.
"""

from __future__ import annotations

from typing import Any

from scaling_api import names
from scaling_api.driver import (
    CONFIG_MOUNT,
    ENV_ATTEMPT,
    ENV_PROGRESS_CA,
    ENV_PROGRESS_TOKEN,
    ENV_PROGRESS_URL,
    ENV_RAY_ADDRESS,
    ENV_RUN_DIR,
    ENV_SPEC,
    ENV_STORAGE_ROOT,
    PORT_GCS,
    SECRET_KEY_CA,
    SECRET_KEY_MANIFEST,
    SECRET_KEY_RAY_TOKEN,
    STORAGE_MOUNT,
    TOKEN_MOUNT,
)
from scaling_api.spec import EnvVar, ScalingJob

HOME = "/home/scaling"
TOKEN_FILE = "token"

_TUNING = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",
    # The image's file system is read-only, and a user without an entry in /etc/passwd has no name.
    "HOME": HOME,
    "USER": "scaling",
}


def ray_environment(
    job: ScalingJob, attempt: int, *, group: str, gcs_address: str, threads: int
) -> dict[str, dict[str, Any]]:
    """Environment of a container that runs Ray, or talks to it, by variable name."""
    cluster = names.ray_cluster(job.metadata.name, attempt)
    tuning = {**_TUNING, "OMP_NUM_THREADS": str(threads)}
    identity = {
        "RAY_CLUSTER_NAME": cluster,
        "RAY_CLUSTER_NAMESPACE": job.metadata.namespace or "",
        "RAY_NODE_TYPE_NAME": group,
        "RAY_PORT": str(PORT_GCS),
        ENV_RAY_ADDRESS: gcs_address,
        "RAY_AUTH_MODE": "token",
    }
    return {
        **_literals({**tuning, **identity}),
        "RAY_CLOUD_INSTANCE_ID": {
            "name": "RAY_CLOUD_INSTANCE_ID",
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}},
        },
        "RAY_AUTH_TOKEN": _from_secret("RAY_AUTH_TOKEN", cluster, SECRET_KEY_RAY_TOKEN),
        **{variable.name: _of_user(variable) for variable in job.spec.cluster.env},
    }


def driver_environment(job: ScalingJob, attempt: int, *, progress_url: str) -> dict[str, dict[str, Any]]:
    """What the driver's container has on top: where its inputs lie and where its reports go."""
    root = storage_root(job)
    folder = names.run_folder(job.metadata.namespace or "", job.metadata.name, job.metadata.uid or "")
    return _literals(
        {
            ENV_SPEC: f"{CONFIG_MOUNT}/{SECRET_KEY_MANIFEST}",
            ENV_STORAGE_ROOT: root,
            ENV_RUN_DIR: f"{root.rstrip('/')}/{folder}",
            ENV_ATTEMPT: str(attempt),
            ENV_PROGRESS_URL: progress_url,
            ENV_PROGRESS_CA: f"{CONFIG_MOUNT}/{SECRET_KEY_CA}",
            ENV_PROGRESS_TOKEN: f"{TOKEN_MOUNT}/{TOKEN_FILE}",
        }
    )


def storage_root(job: ScalingJob) -> str:
    """Where the job's storage is, seen from its pods."""
    storage = job.spec.storage
    return storage.uri if storage is not None and storage.uri is not None else STORAGE_MOUNT


def storage_credentials(job: ScalingJob) -> list[dict[str, Any]]:
    """`envFrom` of every container: the Secret with the object store's credentials."""
    storage = job.spec.storage
    if storage is None or storage.secret_ref is None:
        return []
    return [{"secretRef": {"name": storage.secret_ref.name}}]


def _literals(values: dict[str, str]) -> dict[str, dict[str, Any]]:
    return {name: {"name": name, "value": value} for name, value in values.items()}


def _from_secret(name: str, secret: str, key: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _of_user(variable: EnvVar) -> dict[str, Any]:
    if variable.secret_key_ref is not None:
        return _from_secret(variable.name, variable.secret_key_ref.name, variable.secret_key_ref.key)
    return {"name": variable.name, "value": variable.value or ""}
