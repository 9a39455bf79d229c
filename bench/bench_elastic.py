"""How fast an elastic job goes on with fewer workers, and grows again, on the tests' own cluster.

Two worker pods train, one is enough. One is deleted while a quota keeps its successor from being created: the time
ends with the first step of the one that is left. Then the quota goes: the times end with the successor's readiness,
and with the first step of both.

    python -m bench.bench_elastic [--runs 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

from bench.on_cluster import NAMESPACE, Bench, bench_cluster, moment, timeline
from scaling_api import names
from scaling_api.names import WorkerSlot
from scaling_training.engine.run import GROW_INTERVAL_S
from tests.cluster.kube.client import Object, wait_until
from tests.cluster.scenarios.jobs import JOBS, QUOTA, allow_pods


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    measured: list[dict[str, float]] = []
    with bench_cluster("bench-elastic") as bench:
        for run in range(arguments.runs):
            measured.append(_run(bench, f"elastic{run}"))
            sys.stderr.write(f"{measured[-1]}, load {os.getloadavg()[0]:.1f}\n")
    medians = {name: statistics.median(one[name] for one in measured) for name in measured[0]}
    print(json.dumps({"bench": "elastic", "runs": arguments.runs, "medianSeconds": medians, "all": measured}))
    return 0


def _run(bench: Bench, name: str) -> dict[str, float]:
    folder = bench.apply(name, least=1, epochs=2000, parallelism={}, checkpoint={"everyEpochs": 1, "everySteps": 10})
    _wait_workers(bench, name, 2)
    # What the driver imports beside the first epoch is imported.
    time.sleep(20)
    allow_pods(bench.access.client, NAMESPACE, 2)
    lost = time.time()
    bench.access.client.delete("pods", names.worker_pod(name, 1, WorkerSlot("cpu", 1), 0), NAMESPACE)
    _wait_workers(bench, name, 1)
    fewer = _first_step_after(folder, lost) - lost
    # A group that has just started does not grow yet.
    time.sleep(GROW_INTERVAL_S)
    lifted = time.time()
    bench.access.client.delete("resourcequotas", QUOTA, NAMESPACE)
    _wait_workers(bench, name, 2)
    both = _first_step_after(folder, lifted)
    pod = bench.access.client.get("pods", names.worker_pod(name, 1, WorkerSlot("cpu", 1), 1), NAMESPACE)
    created, ready = moment(pod["metadata"]["creationTimestamp"]), _ready_at(pod)
    bench.delete(name)
    return {
        "lost to first step of one": round(fewer, 1),
        "quota gone to pod created": round(created - lifted, 1),
        "pod created to ready": round(ready - created, 1),
        "pod ready to first step of both": round(both - ready, 1),
    }


def _wait_workers(bench: Bench, name: str, count: int) -> None:
    def trains() -> bool:
        assert not bench.has_failed(name)
        progress: Object = bench.access.client.get(JOBS, name, NAMESPACE).get("status", {}).get("progress") or {}
        return progress.get("workers") == count

    wait_until(trains, timeout_s=300, interval_s=0.5)


def _first_step_after(folder: Path, moment: float) -> float:
    """When the group that started after that moment made its first step; it reports before that as well."""

    def found() -> float | None:
        marks = timeline(folder, "firstStep") or {}
        return max((at for name, at in marks.items() if name.startswith("firstStep") and at > moment), default=None)

    return wait_until(found, timeout_s=300, interval_s=0.2)


def _ready_at(pod: Object) -> float:
    ready = next(entry for entry in pod["status"]["conditions"] if entry["type"] == "Ready")
    return moment(ready["lastTransitionTime"])


if __name__ == "__main__":
    sys.exit(main())
