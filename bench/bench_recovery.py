"""From the loss of a worker to the first optimizer step after it, on the tests' own cluster.

Two worker pods train; one of them is lost in one of three ways: deleted, as a drained node does it; killed, all
its processes at once and without SIGTERM; frozen, all its processes stopped, so that its connections stay open
and nothing answers. The time ends with the first step of the restarted training, which the driver notes, as it does the
phases before. What is lost of the training is told in optimizer steps by the checkpoint that it goes on from.

    python -m bench.bench_recovery [--runs 3] [--faults deleted killed frozen]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping

from bench.on_cluster import NAMESPACE, Bench, bench_cluster, timeline
from scaling_api import names
from scaling_api.names import WorkerSlot
from tests.cluster.kube.client import wait_until


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--faults", nargs="+", choices=[*FAULTS], default=[*FAULTS])
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    phases: dict[str, list[dict[str, float]]] = {}
    with bench_cluster("bench-recovery") as bench:
        for run in range(arguments.runs):
            for fault in arguments.faults:
                passed = _run(bench, f"{fault}{run}", FAULTS[fault])
                took = passed["first step"]
                sys.stderr.write(f"{fault}: {took:.1f} s, {passed}, load {os.getloadavg()[0]:.1f}\n")
                seconds.setdefault(fault, []).append(round(took, 1))
                phases.setdefault(fault, []).append(passed)
    result = {
        "bench": "recovery",
        "runs": arguments.runs,
        "medianSeconds": {fault: statistics.median(values) for fault, values in seconds.items()},
        "all": seconds,
        "medianPhases": {
            fault: {phase: round(statistics.median(one[phase] for one in several), 1) for phase in PHASES}
            for fault, several in phases.items()
        },
    }
    print(json.dumps(result))
    return 0


def _deleted(bench: Bench, pod: str) -> None:
    bench.access.client.delete("pods", pod, NAMESPACE)


def _killed(bench: Bench, pod: str) -> None:
    _signal_all(bench, pod, "KILL")


def _frozen(bench: Bench, pod: str) -> None:
    _signal_all(bench, pod, "STOP")


def _signal_all(bench: Bench, pod: str, signal: str) -> None:
    """Send a signal to every process of the pod but its first and the sender."""
    # check=False: the shell's own connection may go with the pod.
    bench.access.kubectl(
        "-n", NAMESPACE, "exec", pod, "-c", "ray", "--", "bash", "-c", f"kill -{signal} -1", check=False
    )


FAULTS: Mapping[str, Callable[[Bench, str], None]] = {"deleted": _deleted, "killed": _killed, "frozen": _frozen}


# From the loss to each of these points, as the driver names them.
PHASES: Mapping[str, str] = {
    "noticed": "lossNoticed",
    "all processes there": "groupStarting2",
    "process group": "joined2",
    "first step": "firstStep2",
}
# What the driver imports beside the first epoch would take CPU from the restart, as it does in no later loss.
SETTLED_S = 20.0


def _run(bench: Bench, name: str, fault: Callable[[Bench, str], None]) -> dict[str, float]:
    """Seconds from the loss to the end of each phase."""
    # Long enough that it is not over before the fault; saved often enough that a step soon counts.
    run_folder = bench.apply(name, epochs=200, checkpoint={"everyEpochs": 1, "everySteps": 10})
    wait_until(lambda: timeline(run_folder, "firstStep"), timeout_s=180, interval_s=0.1)
    wait_until(lambda: list(run_folder.glob("checkpoints/*/*/MANIFEST.json")), timeout_s=120)
    time.sleep(SETTLED_S)
    pod = names.worker_pod(name, 1, WorkerSlot("cpu", 1), 0)
    lost = time.time()
    fault(bench, pod)

    def again() -> dict[str, float] | None:
        assert not bench.has_failed(name)
        return timeline(run_folder, "firstStep2")

    marks = wait_until(again, timeout_s=180, interval_s=0.2)
    bench.delete(name)
    return {phase: round(marks[mark] - lost, 2) for phase, mark in PHASES.items()}


if __name__ == "__main__":
    sys.exit(main())
