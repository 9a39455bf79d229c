"""A volume claim bound to a folder of the node, as a stand-in for a cluster's shared file system."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cluster.kube.client import Client
from tests.cluster.kube.images import USER_ID


def create_claim(client: Client, namespace: str, name: str, folder: Path, *, size: str = "10Gi") -> None:
    """Make `folder`, for user 1000 to write to, and a ReadWriteMany claim `name` that is bound to it."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder, USER_ID, USER_ID)
    volume = f"{namespace}-{name}"
    shape = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",
        "volumeMode": "Filesystem",
        "volumeName": volume,
    }
    client.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                "capacity": {"storage": size},
                "accessModes": shape["accessModes"],
                "storageClassName": "",
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(folder), "type": "DirectoryOrCreate"},
                "claimRef": {"namespace": namespace, "name": name},
            },
        }
    )
    client.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": shape | {"resources": {"requests": {"storage": size}}},
        },
        namespace,
    )
    bound = lambda claim: claim["status"].get("phase") == "Bound"  # noqa: E731
    client.wait_for("persistentvolumeclaims", name, namespace, bound, timeout_s=30)


def delete_volume(client: Client, namespace: str, name: str) -> None:
    """Remove the volume of `create_claim`; the folder and what is in it stay."""
    client.delete("persistentvolumes", f"{namespace}-{name}")
