"""From `scalingjob run` to the first optimizer step on this machine, by phase.

    python -m bench.bench_startup [--runs N] [--file FILE]

The times are those that the run notes itself (timeline/attempt-0001.json), counted from the creation of its
process. CPU seconds by kind of process tell how much of the wall clock is work: on a busy machine only they can
be compared. The last line is the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIMIT_S = 180.0

# Phase: from which point to which.
PHASES = {
    "interpreter and manifest": (None, "driverStarted"),
    "Ray": ("driverStarted", "rayReady"),
    "Ray Train's controller": ("rayReady", "controllerStarted"),
    "training processes": ("controllerStarted", "joinCalled"),
    "torch": ("joinCalled", "torchImported"),
    "process group": ("torchImported", "joined"),
    "calling the loop": ("joined", "loopImported"),
    "data, model, optimizer": ("loopImported", "loopReady"),
    "first step": ("loopReady", "firstStep"),
}
_KINDS = (
    ("training process", "TrainingProcess"),
    ("helper actor", "ray::"),
    ("Ray: raylet", "raylet/raylet"),
    ("Ray: GCS", "gcs_server"),
    ("Ray: dashboard", "dashboard"),
    ("driver", "scaling_cli"),
)


def main() -> int:
    """Measure; the last line printed is the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--file", default=str(ROOT / "examples/mnist.yaml"))
    args = parser.parse_args()
    measured = [measure(args.file) for _ in range(args.runs)]
    for name in PHASES:
        print(f"{name:28}" + "".join(f"{run['phases'].get(name, float('nan')):8.2f}" for run in measured))
    print(f"{'first step after':28}" + "".join(f"{run['firstStepSeconds']:8.2f}" for run in measured))
    totals = [run["firstStepSeconds"] for run in measured]
    result = {
        "bench": "startup",
        "firstStepSeconds": {"median": statistics.median(totals), "all": totals},
        "phases": {name: statistics.median(run["phases"][name] for run in measured) for name in PHASES},
        "cpuSeconds": measured[-1]["cpuSeconds"],
        "loadAverage": os.getloadavg()[0],
        "cpus": os.cpu_count(),
    }
    print(json.dumps(result))
    return 0


def measure(file: str) -> dict[str, Any]:
    """One run up to its first step."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        run_dir = Path(folder) / "run"
        process = subprocess.Popen(
            [sys.executable, "-m", "scaling_cli.main", "run", file, "--run-dir", str(run_dir)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        timeline = run_dir / "timeline/attempt-0001.json"
        deadline = time.monotonic() + LIMIT_S
        while not timeline.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise SystemExit(f"no first step: {process.communicate()[1].decode()}")
            time.sleep(0.02)
        cpu = cpu_seconds(process.pid)
        seconds = json.loads(timeline.read_text())["seconds"]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    phases = {
        name: round(seconds[end] - (seconds[start] if start else 0.0), 3)
        for name, (start, end) in PHASES.items()
        if end in seconds and (start is None or start in seconds)
    }
    return {"firstStepSeconds": seconds["firstStep"], "phases": phases, "cpuSeconds": cpu}


def cpu_seconds(pid: int) -> dict[str, float]:
    """CPU seconds of a process and all below it, by kind."""
    spent: Counter[str] = Counter()
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        number = int(stat.parent.name)
        parents[number], ticks[number] = int(fields[1]), int(fields[11]) + int(fields[12])
    for number, spent_ticks in ticks.items():
        above = number
        while above in parents and above != pid:
            above = parents[above]
        if above == pid:
            spent[_kind(number)] += spent_ticks
    hertz = os.sysconf("SC_CLK_TCK")
    return {kind: round(total / hertz, 2) for kind, total in spent.most_common()}


def _kind(pid: int) -> str:
    try:
        title = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return "gone"
    for kind, sign in _KINDS:
        if sign in title:
            match = re.search(r"ray::(\w+)", title)
            return f"{kind} {match.group(1)}" if match and kind == "helper actor" else kind
    return "other"


if __name__ == "__main__":
    sys.exit(main())
