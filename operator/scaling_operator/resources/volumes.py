"""Volumes of the pods and where they appear.

The image's file system is read-only. What may be written: /tmp (Ray's session lies in it), a home folder, and
/dev/shm, a tmpfs of exactly the object store's size. On the head all three are shared by Ray and the driver:
a driver finds its Ray node by files in /tmp/ray and reads its objects from /dev/shm.
"""

from __future__ import annotations

from typing import Any

from scaling_api import names
from scaling_api.driver import (
    CONFIG_MOUNT,
    SECRET_KEY_CA,
    SECRET_KEY_MANIFEST,
    STORAGE_MOUNT,
    TOKEN_AUDIENCE,
    TOKEN_MOUNT,
)
from scaling_api.spec import ScalingJob, Volume

from .environment import HOME, TOKEN_FILE

TOKEN_LIFETIME_S = 3600
# Names of the user's volumes get a prefix, so that they cannot meet ours.
_USER_PREFIX = "user-"


def common_volumes(job: ScalingJob, *, shm_bytes: int) -> list[dict[str, Any]]:
    """Volumes of every pod: scratch space, storage, and the user's."""
    volumes: list[dict[str, Any]] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "home", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(shm_bytes)}},
    ]
    storage = job.spec.storage
    if storage is not None and storage.claim_name is not None:
        volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": storage.claim_name}})
    return volumes + [{"name": _USER_PREFIX + volume.name, **_source(volume)} for volume in job.spec.cluster.volumes]


def common_mounts(job: ScalingJob) -> list[dict[str, Any]]:
    """Mounts of every container that runs Ray or the driver."""
    mounts = [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "home", "mountPath": HOME},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    storage = job.spec.storage
    if storage is not None and storage.claim_name is not None:
        mounts.append({"name": "storage", "mountPath": STORAGE_MOUNT})
    return mounts + [_user_mount(volume) for volume in job.spec.cluster.volumes]


def driver_volumes(job: ScalingJob, attempt: int) -> list[dict[str, Any]]:
    """Volumes for the driver alone: its inputs, and a token that only the operator accepts."""
    keys = (SECRET_KEY_MANIFEST, SECRET_KEY_CA)
    token = {"audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_LIFETIME_S, "path": TOKEN_FILE}
    return [
        {
            "name": "config",
            "secret": {
                "secretName": names.ray_cluster(job.metadata.name, attempt),
                "items": [{"key": key, "path": key} for key in keys],
            },
        },
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
    ]


def driver_mounts() -> list[dict[str, Any]]:
    """Where the driver finds them."""
    return [
        {"name": "config", "mountPath": CONFIG_MOUNT, "readOnly": True},
        {"name": "token", "mountPath": TOKEN_MOUNT, "readOnly": True},
    ]


def _source(volume: Volume) -> dict[str, Any]:
    if volume.claim_name is not None:
        return {"persistentVolumeClaim": {"claimName": volume.claim_name, "readOnly": volume.read_only}}
    if volume.secret_name is not None:
        return {"secret": {"secretName": volume.secret_name}}
    return {"configMap": {"name": volume.config_map_name}}


def _user_mount(volume: Volume) -> dict[str, Any]:
    mount: dict[str, Any] = {"name": _USER_PREFIX + volume.name, "mountPath": volume.mount_path}
    return {**mount, "readOnly": True} if volume.read_only else mount
