"""From `kubectl apply` to the first optimizer step, on the tests' own cluster with real pods and real Ray.

The operator runs as the Deployment of manifests/. Images are present. Each run is a fresh job of two worker pods
that train examples/mnist.yaml; phases are told by the pods' statuses (whole seconds) and by the driver's own time
line (milliseconds).

    python -m bench.bench_apply [--runs 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

from bench.on_cluster import NAMESPACE, Bench, bench_cluster, moment, timeline
from scaling_api import names
from tests.cluster.kube.client import Object, wait_until
from tests.cluster.scenarios.jobs import JOBS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with bench_cluster("bench-apply") as bench:
        runs = [_run(bench, f"run{index}") for index in range(arguments.runs)]
    for run in runs:
        sys.stderr.write(json.dumps(run) + "\n")
    median = {phase: round(statistics.median(run[phase] for run in runs), 2) for phase in runs[0]}
    print(json.dumps({"runs": len(runs), "medianSecondsSinceApply": median}))
    return 0


def _run(bench: Bench, name: str) -> dict[str, float]:
    """Apply one job, wait for its first step, delete it; seconds since apply of each phase."""
    client = bench.access.client
    applied = time.time()
    run_folder = bench.apply(name)
    marks = wait_until(lambda: timeline(run_folder, "firstStep"), timeout_s=180, interval_s=0.1)
    head = client.get("pods", names.head_pod(name, 1), NAMESPACE)
    phases = {
        "podsCreated": moment(head["metadata"]["creationTimestamp"]) - applied,
        "headContainerStarted": _started(head, "ray") - applied,
    }
    phases |= {mark: at - applied for mark, at in marks.items()}
    # Until the operator says so too, the way from the driver to the status is not shown to work.
    wait_until(lambda: _reported(bench, name), timeout_s=60)
    bench.delete(name)
    return phases


def _reported(bench: Bench, name: str) -> bool:
    assert not bench.has_failed(name)
    job = bench.access.client.get(JOBS, name, NAMESPACE)
    return bool((job.get("status", {}).get("progress") or {}).get("firstStepAt"))


def _started(pod: Object, container: str) -> float:
    statuses = [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]
    state = next(status["state"] for status in statuses if status["name"] == container)
    return moment(state["running"]["startedAt"])


if __name__ == "__main__":
    sys.exit(main())
