"""From `kubectl apply` to the first optimizer step, on the tests' own cluster with real pods and real Ray.

The operator runs as the Deployment of manifests/. Images are present. Each run is a fresh job of two worker pods
that train examples/mnist.yaml; phases are told by the pods' statuses (whole seconds) and by the driver's own time
line (milliseconds).

    python -m bench.bench_apply [--runs 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from scaling_api import names
from tests.cluster.kube import cluster as clusters
from tests.cluster.kube.access import Access
from tests.cluster.kube.binaries import ensure_binaries
from tests.cluster.kube.client import Client, Object, condition_status, wait_until
from tests.cluster.kube.storage import create_claim

ROOT = Path(__file__).resolve().parents[1]
JOBS = "scalingjobs.scaling.dev"
NAMESPACE = "bench"
# The node is this machine: what the pods ask for must fit beside each other, what they may use is all of it.
RESOURCES = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "3Gi"}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    folder = clusters.clusters_root() / "bench-apply"
    clusters.down(folder)
    cluster = clusters.up(folder, owner_pid=os.getpid())
    try:
        with cluster.client() as client:
            access = Access(cluster.kubeconfig, str(ensure_binaries()["kubectl"]), client, cluster)
            _install(access, cluster.volumes / NAMESPACE)
            runs = [_run(access, f"run{index}", cluster.volumes / NAMESPACE) for index in range(arguments.runs)]
    finally:
        clusters.down(folder)
    for run in runs:
        sys.stderr.write(json.dumps(run) + "\n")
    median = {phase: round(statistics.median(run[phase] for run in runs), 2) for phase in runs[0]}
    print(json.dumps({"runs": len(runs), "medianSecondsSinceApply": median}))
    return 0


def _install(access: Access, volume: Path) -> None:
    access.kubectl("apply", "-k", str(ROOT / "manifests"))
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    access.client.create(namespace)
    create_claim(access.client, NAMESPACE, "runs", volume)
    access.client.wait_for(
        "deployments.apps",
        "scaling-operator",
        "scaling-system",
        lambda item: item["status"].get("availableReplicas"),
        timeout_s=90,
    )


def _run(access: Access, name: str, storage: Path) -> dict[str, float]:
    """Apply one job, wait for its first step, delete it; seconds since apply of each phase."""
    client = access.client
    applied = time.time()
    access.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=json.dumps(_job(name)))
    job = client.get(JOBS, name, NAMESPACE)
    run_folder = storage / names.run_folder(NAMESPACE, name, job["metadata"]["uid"])
    timeline = wait_until(lambda: _timeline(run_folder), timeout_s=180, interval_s=0.1)
    head = client.get("pods", names.head_pod(name, 1), NAMESPACE)
    driver = _moment(timeline["startedAt"])
    phases = {
        "podsCreated": _moment(head["metadata"]["creationTimestamp"]) - applied,
        "headContainerStarted": _started(head, "ray") - applied,
        "driverStarted": driver - applied,
    }
    phases |= {mark: driver + seconds - applied for mark, seconds in timeline["seconds"].items()}
    # Until the operator says so too, the way from the driver to the status is not shown to work.
    wait_until(lambda: _reported(client, name), timeout_s=60)
    client.delete(JOBS, name, NAMESPACE)
    wait_until(lambda: not client.list("pods", NAMESPACE), timeout_s=120)
    return phases


def _job(name: str) -> Object:
    job: Object = yaml.safe_load((ROOT / "examples" / "mnist.yaml").read_text())
    job["metadata"]["name"] = name
    job["spec"]["cluster"] = {
        "head": {"resources": RESOURCES},
        "workers": [{"name": "cpu", "min": 2, "max": 2, "resources": RESOURCES}],
    }
    return job


def _timeline(run_folder: Path) -> dict[str, Any] | None:
    path = run_folder / "timeline" / "attempt-0001.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found if "firstStep" in found["seconds"] else None


def _reported(client: Client, name: str) -> bool:
    job = client.get(JOBS, name, NAMESPACE)
    assert condition_status(job, "Failed") != "True", job["status"]
    return bool((job.get("status", {}).get("progress") or {}).get("firstStepAt"))


def _started(pod: Object, container: str) -> float:
    statuses = [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]
    state = next(status["state"] for status in statuses if status["name"] == container)
    return _moment(state["running"]["startedAt"])


def _moment(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


if __name__ == "__main__":
    sys.exit(main())
