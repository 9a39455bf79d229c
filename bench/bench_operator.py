"""How much the operator costs: many jobs at once, and one large job, on simulated nodes.

The cluster is the tests' own, without a real node: kwok gives pods their statuses, so that API server, etcd,
scheduler and operator are real and nothing else runs. The operator runs as a process of this machine with
the ServiceAccount of manifests/, so that its CPU time and memory can be read from the kernel.

    python -m bench.bench_operator [--jobs 100] [--workers 4] [--large 500]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import requests
import yaml

from bench.process import cpu_seconds, peak_memory_mib
from scaling_api import API_VERSION, KIND
from tests.cluster.kube import cluster as clusters
from tests.cluster.kube.binaries import ensure_binaries
from tests.cluster.kube.client import Client, Object, condition_status, wait_until
from tests.cluster.kube.kwok import SIMULATED_SELECTOR, SIMULATED_TOLERATION

ROOT = Path(__file__).resolve().parents[1]
JOBS = "scalingjobs.scaling.dev"
NAMESPACE = "bench"
METRICS_PORT = 18080
NODES = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=100, help="jobs applied at once")
    parser.add_argument("--workers", type=int, default=4, help="workers of each of them")
    parser.add_argument("--large", type=int, default=500, help="workers of the one large job")
    parser.add_argument("--profile", type=Path, help="write a cProfile of the operator to this file")
    arguments = parser.parse_args()

    folder = clusters.clusters_root() / "bench-operator"
    clusters.down(folder)
    cluster = clusters.up(folder, simulated_nodes=NODES, with_node=False, owner_pid=os.getpid())
    try:
        with cluster.client() as client:
            kubeconfig = _install(cluster.kubeconfig, client, folder)
            with _operator(kubeconfig, arguments.profile) as process:
                result: dict[str, Any] = {
                    "manyJobs": _measure(client, process, arguments.jobs, arguments.workers),
                    "largeJob": _measure(client, process, 1, arguments.large),
                }
                result["peakMemoryMiB"] = round(peak_memory_mib(process.pid), 1)
    finally:
        clusters.down(folder)
    print(json.dumps(result))
    return 0


def _install(admin: Path, client: Client, folder: Path) -> Path:
    """Apply manifests/ without a running Deployment; returns a kubeconfig of its ServiceAccount."""
    kubectl = str(ensure_binaries()["kubectl"])
    environment = {**os.environ, "KUBECONFIG": str(admin)}
    rendered = subprocess.run(
        [kubectl, "kustomize", str(ROOT / "manifests")], check=True, capture_output=True, text=True
    )
    for manifest in yaml.safe_load_all(rendered.stdout):
        if manifest["kind"] != "Deployment":
            client.apply(manifest)
    client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    command = [kubectl, "-n", "scaling-system", "create", "token", "scaling-operator", "--duration=2h"]
    token = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()
    config = yaml.safe_load(admin.read_text())
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    path = folder / "operator.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    wait_until(lambda: client.find("customresourcedefinitions.apiextensions.k8s.io", JOBS), timeout_s=30)
    return path


@contextmanager
def _operator(kubeconfig: Path, profile: Path | None) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable]
    command += ["-m", "cProfile", "-o", str(profile)] if profile else []
    command += ["-m", "scaling_operator.main", f"--kubeconfig={kubeconfig}", "--namespace=scaling-system"]
    command += [f"--metrics-port={METRICS_PORT}", "--https-port=18443", "--log-level=WARNING"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stderr=log)
        try:
            wait_until(lambda: _ready(process), timeout_s=60)
            yield process
        finally:
            process.terminate()
            process.wait(30)
            log.seek(0)
            sys.stderr.write(log.read().decode()[-4000:])


def _ready(process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"the operator ended with {process.returncode}")
    try:
        return requests.get(f"http://127.0.0.1:{METRICS_PORT}/readyz", timeout=2).ok
    except requests.RequestException:
        return False


def _measure(client: Client, process: subprocess.Popen[bytes], jobs: int, workers: int) -> dict[str, Any]:
    """Apply `jobs` jobs at once, wait until all report their cluster ready, then delete them."""
    prefix = f"b{jobs}"
    manifests = [_job(f"{prefix}-{index}", workers) for index in range(jobs)]
    cpu_before, requests_before = cpu_seconds(process.pid), _requests()
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda manifest: client.create(manifest, NAMESPACE), manifests))
    applied_s = time.monotonic() - started
    wait_until(lambda: _ready_jobs(client, prefix) == jobs, timeout_s=180, interval_s=0.5)
    ready_s = time.monotonic() - started
    # Events are written behind the reconciles: what they cost belongs to the bill.
    time.sleep(3)
    spent_requests = _requests() - requests_before
    spent_cpu_s = cpu_seconds(process.pid) - cpu_before
    times = _creation_times(client, prefix)
    wanted = jobs * (workers + 1)
    assert len(times) == wanted, f"{len(times)} pods were created instead of {wanted}"
    # The last second counts whole, so the rate is rather too low.
    created_s = max(times) - min(times) + 1
    _delete_all(client)
    return {
        "jobs": jobs,
        "pods": wanted,
        "podsPerSecond": round(wanted / created_s, 1),
        "appliedSeconds": round(applied_s, 1),
        "allReadySeconds": round(ready_s, 1),
        "cpuSeconds": round(spent_cpu_s, 2),
        "requestsPerJob": round(spent_requests / jobs, 1),
    }


def _creation_times(client: Client, prefix: str) -> list[float]:
    """When each pod was created, by the server's clock, in whole seconds.

    Not by a watch: with two busy cores its reader falls behind by seconds, and takes time from what is measured.
    """
    pods = (pod["metadata"] for pod in client.list("pods", NAMESPACE))
    return [
        datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()
        for metadata in pods
        if metadata["name"].startswith(prefix)
    ]


def _job(name: str, workers: int) -> Object:
    placement = {"spec": {"tolerations": [SIMULATED_TOLERATION], "nodeSelector": SIMULATED_SELECTOR}}
    small = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "2Gi"}}
    group = {"name": "cpu", "min": workers, "max": workers, "resources": small}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {
            "storage": {"uri": "s3://bench/runs"},
            "model": {"name": "small-cnn"},
            "dataset": {"name": "digits"},
            "training": {"epochs": 1},
            "cluster": {"head": {"resources": small}, "workers": [group], "podOverrides": placement},
        },
    }


def _ready_jobs(client: Client, prefix: str) -> int:
    jobs = client.list(JOBS, NAMESPACE)
    return sum(
        job["metadata"]["name"].startswith(prefix) and condition_status(job, "ClusterReady") == "True" for job in jobs
    )


def _delete_all(client: Client) -> None:
    client.delete_all(JOBS, NAMESPACE)
    wait_until(lambda: not client.list("pods", NAMESPACE), timeout_s=180, interval_s=1)


def _requests() -> float:
    """All requests that the operator has sent so far."""
    text = requests.get(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=10).text
    lines = [line for line in text.splitlines() if line.startswith("rest_client_requests_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


if __name__ == "__main__":
    sys.exit(main())
