"""How soon a frozen head is found and named, and whether a slow one is left alone, on the tests' own cluster.

`frozen`: a job trains on two workers, and its head is frozen in five ways, one in each attempt: all processes of the
pod are stopped; its control groups are frozen; the driver is stopped; Ray's GCS is; the head's raylet is. Told are the
seconds until the job's status names it, and until the next attempt has made its first step.

`soak`: a job trains for half an hour with a head of 0.2 CPU, while every few minutes its storage freezes for 90 s, or
code of the user's keeps the driver's interpreter lock for 20 s, or the API server is away for 5 minutes. Nothing may be
lost.

    python -m bench.bench_stall [--parts frozen soak] [--runs 5] [--faults NAME ...] [--minutes 30]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.on_cluster import NAMESPACE, Bench, bench_cluster, timeline
from scaling_api import names
from scaling_api.driver import STORAGE_MOUNT
from tests.cluster.kube.client import Object, wait_until
from tests.cluster.kube.images import USER_ID
from tests.cluster.kube.storage import create_claim
from tests.cluster.scenarios.jobs import RESOURCES, Job, manifest

# Where containerd keeps the control groups of containers (version 1), by their ids.
GROUPS = Path("/sys/fs/cgroup/freezer/k8s.io")
# What the driver imports beside the first epoch is done by then.
SETTLED_S = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--parts", nargs="+", choices=["frozen", "soak"], default=["frozen", "soak"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--faults", nargs="+", choices=[*FAULTS], default=[*FAULTS])
    parser.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    with freezable() as storage, bench_cluster("bench-stall") as bench:
        if "frozen" in arguments.parts:
            found = frozen(bench, arguments.runs, arguments.faults)
            print(json.dumps({"bench": "stall", "part": "frozen", "runs": arguments.runs} | found))
        if "soak" in arguments.parts:
            found = soak(bench, storage, arguments.minutes)
            print(json.dumps({"bench": "stall", "part": "soak", "minutes": arguments.minutes} | found))
    return 0


def frozen(bench: Bench, runs: int, faults: Sequence[str]) -> dict[str, Any]:
    """Medians and all figures by fault."""
    passed: dict[str, list[dict[str, Any]]] = {}
    for run in range(runs):
        # The pause before an attempt grows with the failures before it: so each round has a job of its own.
        job = _apply(
            bench,
            f"stall{run}",
            bench.storage,
            claim="runs",
            epochs=100_000,
            training={"checkpoint": {"everyEpochs": 50}},
            run_policy={"backoffLimit": len(faults)},
        )
        run_folder = job.run_folder
        for attempt, fault in enumerate(faults, start=1):
            one = _frozen_once(bench, job, run_folder, attempt, FAULTS[fault])
            sys.stderr.write(f"{fault}: {one}, load {os.getloadavg()[0]:.1f}\n")
            passed.setdefault(fault, []).append(one)
        bench.delete(job.name)
    return {
        "medianSeconds": {
            fault: {point: statistics.median(one[point] for one in several) for point in ("named", "first step")}
            for fault, several in passed.items()
        },
        "worstNamed": max(one["named"] for several in passed.values() for one in several),
        "reasons": sorted({one["reason"] for several in passed.values() for one in several}),
        "all": passed,
    }


def _frozen_once(
    bench: Bench, job: Job, run_folder: Path, attempt: int, fault: Callable[[Bench, str], None]
) -> dict[str, Any]:
    """Seconds from the fault to what comes of it, and what the status says."""
    wait_until(lambda: timeline(run_folder, "firstStep", attempt), timeout_s=300)
    time.sleep(SETTLED_S)
    froze = time.time()
    fault(bench, names.head_pod(job.name, attempt))
    ended = wait_until(lambda: _ended(job, attempt), timeout_s=180, interval_s=0.2)
    named_s = time.time() - froze
    marks = wait_until(lambda: timeline(run_folder, "firstStep", attempt + 1), timeout_s=300, interval_s=0.2)
    return {
        "named": round(named_s, 1),
        "first step": round(marks["firstStep"] - froze, 1),
        "reason": ended["reason"],
        "message": ended["message"],
    }


def _ended(job: Job, attempt: int) -> Object | None:
    attempts: list[Object] = job.status()["attempts"]
    return next((one for one in attempts if one["number"] == attempt and "outcome" in one), None)


def _apply(bench: Bench, name: str, storage: Path, *, claim: str, **options: Any) -> Job:
    bench.access.client.apply(manifest(name, claim, **options), NAMESPACE)
    return Job(bench.access.client, NAMESPACE, name, storage)


def _stop_all(bench: Bench, pod: str) -> None:
    """Every process of the pod but its first and the sender."""
    _in_driver(bench, pod, "kill -STOP -1")


def _stop_driver(bench: Bench, pod: str) -> None:
    _in_driver(bench, pod, "pkill -STOP -f scaling-driver")


def _stop_gcs(bench: Bench, pod: str) -> None:
    _in_driver(bench, pod, "pkill -STOP gcs_server")


def _stop_raylet(bench: Bench, pod: str) -> None:
    _in_driver(bench, pod, "pkill -STOP raylet")


def _in_driver(bench: Bench, pod: str, script: str) -> None:
    # check=False: the shell may not outlive what it does.
    bench.access.kubectl("-n", NAMESPACE, "exec", pod, "-c", "driver", "--", "bash", "-c", script, check=False)


def _freeze_groups(bench: Bench, pod: str) -> None:
    """Of both containers, as `docker pause` does it: signals wait too, SIGKILL among them."""
    status = bench.access.client.get("pods", pod, NAMESPACE)["status"]
    for container in [*status["initContainerStatuses"], *status["containerStatuses"]]:
        _, _, identity = container["containerID"].rpartition("/")
        (GROUPS / identity / "freezer.state").write_text("FROZEN")


FAULTS: Mapping[str, Callable[[Bench, str], None]] = {
    "pod stopped": _stop_all,
    "control groups frozen": _freeze_groups,
    "driver stopped": _stop_driver,
    "GCS stopped": _stop_gcs,
    "raylet stopped": _stop_raylet,
}

# A data set whose loading leaves a thread in the driver that keeps the interpreter's lock now and then: what is called
# by way of PyDLL does not give it back.
_GREEDY = """
import ctypes, sys, threading, time
from sklearn.datasets import load_digits

def keep_the_lock():
    while True:
        time.sleep(200)
        print("keeping the lock for 20 s", file=sys.stderr, flush=True)
        ctypes.PyDLL(None).sleep(20)

if "scaling-driver" in open("/proc/self/cmdline").read():
    threading.Thread(target=keep_the_lock, daemon=True).start()

def load():
    digits = load_digits()
    images, labels = digits.images[:, None].astype("uint8"), digits.target
    classes = [str(digit) for digit in range(10)]
    return {"train": (images[:1400], labels[:1400]), "test": (images[1400:], labels[1400:]), "classes": classes}
"""
# When what is disturbed, in minutes; the thread above goes its own way.
STORAGE_AWAY_S, API_AWAY_S = 90.0, 300.0
STORAGE_AT, API_AT = (4.0, 18.0, 24.0), (9.0,)


def soak(bench: Bench, storage: Path, minutes: float) -> dict[str, Any]:
    """What became of the job, and how often a probe of its pods failed."""
    create_claim(bench.access.client, NAMESPACE, "freezable", storage)
    (storage / "code").mkdir()
    (storage / "code" / "greedy.py").write_text(_GREEDY)
    slow = {"requests": RESOURCES["requests"], "limits": {"cpu": "200m", "memory": "3Gi"}}
    job = _apply(
        bench,
        "soak",
        storage,
        claim="freezable",
        dataset={"factory": "greedy:load"},
        code={"uri": f"{STORAGE_MOUNT}/code"},
        epochs=100_000,
        training={"checkpoint": {"everyEpochs": 50}},
        cluster={"head": {"resources": slow}},
    )
    wait_until(lambda: timeline(job.run_folder, "firstStep"), timeout_s=600)
    began = time.monotonic()
    disturbing = [
        threading.Thread(target=_at, args=(began + 60 * minute, work), daemon=True)
        for work, moments in ((lambda: _freeze(storage), STORAGE_AT), (lambda: _take_away(bench), API_AT))
        for minute in moments
        if minute < minutes
    ]
    for thread in disturbing:
        thread.start()
    while time.monotonic() < began + 60 * minutes:
        time.sleep(30)
        try:
            status = job.status()
        except Exception as error:  # the API server is away
            sys.stderr.write(f"{(time.monotonic() - began) / 60:.1f} min: {type(error).__name__}\n")
            continue
        progress = status.get("progress") or {}
        sys.stderr.write(
            f"{(time.monotonic() - began) / 60:.1f} min: {status['phase']}, attempt {status['attempt']}, "
            f"step {progress.get('step')}, {[c['type'] for c in status['conditions'] if c['status'] == 'True']}, "
            f"load {os.getloadavg()[0]:.1f}\n"
        )
    for thread in disturbing:
        thread.join()
    status = job.status()
    log = bench.access.kubectl("-n", NAMESPACE, "logs", names.head_pod(job.name, status["attempt"]), "-c", "driver")
    found = {
        "attempts": status["attempt"],
        "failures": status.get("failures", 0),
        "replaced": sum(group.get("replaced", 0) for group in status["workerGroups"]),
        "eventsOfTheJob": sorted(set(job.events())),
        "probesFailed": _failed_probes(bench),
        "lockKept": log.count("keeping the lock"),
        "hangs": [line for line in log.splitlines() if "stopped" in line],
        "steps": status["progress"].get("step"),
    }
    bench.delete(job.name)
    return found


def _failed_probes(bench: Bench) -> dict[str, int]:
    """By container and kind of probe; events live for an hour."""
    found: dict[str, int] = {}
    for event in bench.access.client.list("events", NAMESPACE):
        if event.get("reason") == "Unhealthy":
            container = event["involvedObject"].get("fieldPath", "")
            name = f"{container}: {event['message'].partition(' probe')[0]}"
            found[name] = found.get(name, 0) + (event.get("count") or 1)
    return found


def _at(moment: float, work: Callable[[], None]) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
    work()


def _freeze(storage: Path) -> None:
    """Whoever writes there waits."""
    sys.stderr.write("storage freezes\n")
    subprocess.run(["fsfreeze", "--freeze", str(storage)], check=True)
    try:
        time.sleep(STORAGE_AWAY_S)
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(storage)], check=True)
    sys.stderr.write("storage is back\n")


def _take_away(bench: Bench) -> None:
    assert bench.access.own is not None
    sys.stderr.write("the API server goes\n")
    bench.access.own.stop("apiserver", at_once=True)
    time.sleep(API_AWAY_S)
    bench.access.own.start("apiserver")
    sys.stderr.write("the API server is back\n")


@contextmanager
def freezable() -> Iterator[Path]:
    """A file system of its own, which can be frozen; in a file."""
    with tempfile.TemporaryDirectory(prefix="bench-stall-") as folder:
        image, mounted = Path(folder) / "image", Path(folder) / "storage"
        with image.open("wb") as file:
            file.truncate(4 * 1024**3)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        mounted.mkdir()
        subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
        os.chown(mounted, USER_ID, USER_ID)
        try:
            yield mounted
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(mounted)], check=False, stderr=subprocess.DEVNULL)
            subprocess.run(["umount", "--lazy", str(mounted)], check=True)


if __name__ == "__main__":
    sys.exit(main())
