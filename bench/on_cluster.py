"""What the measurements on the tests' own cluster share: the operator as deployed, a claim, and jobs that train."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from scaling_api import names
from tests.cluster.kube import cluster as clusters
from tests.cluster.kube.access import Access
from tests.cluster.kube.binaries import ensure_binaries
from tests.cluster.kube.client import Object, condition_status, wait_until
from tests.cluster.kube.storage import create_claim
from tests.cluster.scenarios.jobs import JOBS, RESOURCES

ROOT = Path(__file__).resolve().parents[1]
NAMESPACE = "bench"


@dataclass(frozen=True)
class Bench:
    """A cluster with the operator in it, and the folder behind its claim."""

    access: Access
    storage: Path

    def apply(self, name: str, *, least: int = 2, **training: Any) -> Path:
        """Apply examples/mnist.yaml under this name, with changes of its training section; its run folder.

        There are two workers, and no fewer than ``least``.
        """
        job: Object = yaml.safe_load((ROOT / "examples" / "mnist.yaml").read_text())
        job["metadata"]["name"] = name
        job["spec"]["training"] |= training
        job["spec"]["cluster"] = {
            "head": {"resources": RESOURCES},
            "workers": [{"name": "cpu", "min": least, "max": 2, "resources": RESOURCES}],
        }
        self.access.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=json.dumps(job))
        applied = self.access.client.get(JOBS, name, NAMESPACE)
        return self.storage / names.run_folder(NAMESPACE, name, applied["metadata"]["uid"])

    def delete(self, name: str) -> None:
        """Delete the job and wait until its pods are gone: the next run shall have the machine to itself."""
        self.access.client.delete(JOBS, name, NAMESPACE)
        wait_until(lambda: not self.access.client.list("pods", NAMESPACE), timeout_s=120)

    def has_failed(self, name: str) -> bool:
        """Whether the job has the condition Failed."""
        return condition_status(self.access.client.get(JOBS, name, NAMESPACE), "Failed") == "True"


@contextmanager
def bench_cluster(name: str) -> Iterator[Bench]:
    """A fresh cluster with the operator available; taken down at the end."""
    folder = clusters.clusters_root() / name
    clusters.down(folder)
    cluster = clusters.up(folder, owner_pid=os.getpid())
    try:
        with cluster.client() as client:
            access = Access(cluster.kubeconfig, str(ensure_binaries()["kubectl"]), client, cluster)
            storage = cluster.volumes / NAMESPACE
            access.kubectl("apply", "-k", str(ROOT / "manifests"))
            labels = {"pod-security.kubernetes.io/enforce": "restricted"}
            client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
            create_claim(client, NAMESPACE, "runs", storage)
            client.wait_for(
                "deployments.apps",
                "scaling-operator",
                "scaling-system",
                lambda item: item["status"].get("availableReplicas"),
                timeout_s=90,
            )
            yield Bench(access, storage)
    finally:
        clusters.down(folder)


def timeline(run_folder: Path, mark: str, attempt: int = 1) -> dict[str, float] | None:
    """Unix time of each point that the driver noted, once ``mark`` is among them."""
    path = run_folder / "timeline" / f"attempt-{attempt:04d}.json"
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # not yet, or being written
        return None
    if mark not in found["seconds"]:
        return None
    started = moment(found["startedAt"])
    return {"driverStarted": started} | {name: started + seconds for name, seconds in found["seconds"].items()}


def moment(text: str) -> float:
    """Unix time of a timestamp as Kubernetes and the driver write it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
