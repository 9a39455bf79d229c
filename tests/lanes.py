"""The whole suite in lanes side by side: tests on Kubernetes mostly wait, and meanwhile the others compute.

    python -m tests.lanes [arguments of pytest]

Each lane is a pytest of its own. Its lines are printed as they come, with the lane's name in front; in the end come
the tests that took longest, CPU seconds and wall time beside the budget, and the last line of each lane. The exit
code is the worst one. Ctrl-C ends them in good order.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from xml.etree import ElementTree

from tests import cpu_time
from tests.cluster.kube.access import why_no_cluster

MACHINE = ["tests/unit", "tests/local"]
CLUSTER = ["tests/cluster"]
# Of these, the ones whose pods really train; all others need a control plane, for the most part.
TRAINING = ["tests/cluster/scenarios/test_disturbed.py", "tests/cluster/scenarios/test_training.py"]
# Of the whole suite, on two cores.
BUDGET_S = 20 * 60
BUDGET_CORES = 2
SLOWEST = 25
# pytest's own code for "there was nothing to run".
NOTHING_COLLECTED = 5


@dataclass(slots=True)
class Lane:
    """A pytest that runs, and what it has said last."""

    name: str
    process: subprocess.Popen[str]
    durations: Path
    closing: str = "it said nothing"
    _reader: threading.Thread = field(init=False)

    @classmethod
    def start(cls, name: str, command: list[str], folder: Path, *, width: int) -> Lane:
        """Start a command, to which the place of a report in JUnit's format is added; its lines are ``width`` wide.

        In a process group of its own, so that it is interrupted once, by us, and not by the terminal as well.
        """
        durations = folder / f"{name}.xml"
        process = subprocess.Popen(
            [*command, f"--junitxml={durations}", "-o", "junit_duration_report=total"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "COLUMNS": str(width)},
            process_group=0,
        )
        lane = cls(name, process, durations)
        lane._reader = threading.Thread(target=lane._read, daemon=True)
        lane._reader.start()
        return lane

    def wait(self) -> int:
        """Its exit code, in a shell's terms, once all that it said is printed."""
        code = self.process.wait()
        # A process that it left behind may hold its output open for ever.
        self._reader.join(timeout=10)
        return code if code >= 0 else 128 - code

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                # In one write: the other lanes print as well.
                sys.stdout.write(f"{self.name} | {line.rstrip()}\n")
                sys.stdout.flush()
                if line.strip():
                    self.closing = line.strip()


def run(commands: Mapping[str, list[str]]) -> int:
    """Run the commands side by side, report, and return the worst exit code."""
    began, before = time.monotonic(), cpu_time.used()
    width = shutil.get_terminal_size((120, 24)).columns - max(len(name) for name in commands) - len(" | ")
    with tempfile.TemporaryDirectory(prefix="scaling-lanes-") as folder:
        started: list[Lane] = []
        with _interrupting(started):
            for name, command in commands.items():
                started.append(Lane.start(name, command, Path(folder), width=width))
            codes = [lane.wait() for lane in started]
        took = [one for lane in started for one in durations(lane.durations)]
    lines = ["", "What took longest, set-up included:", *slowest(took)]
    lines += ["", budget(time.monotonic() - began, cpu_time.used().since(before))]
    if reason := why_no_cluster():
        lines += [f"Not run: tests/cluster: {reason}; then: make cluster"]
    lines += [f"{lane.name} | {lane.closing}" for lane in started]
    sys.stdout.write("\n".join(lines) + "\n")
    return worst(codes)


@contextmanager
def _interrupting(started: Iterable[Lane]) -> Iterator[None]:
    """Meanwhile, Ctrl-C, SIGTERM and a closed terminal interrupt the lanes; who waits for them goes on waiting."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for lane in started:
            if lane.process.poll() is None:
                lane.process.send_signal(signal.SIGINT)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def worst(codes: Iterable[int]) -> int:
    """The exit code of the whole; a lane with nothing to run does no harm as long as another had something."""
    told = list(codes)
    return max([code for code in told if code != NOTHING_COLLECTED], default=NOTHING_COLLECTED)


def durations(report: Path) -> list[tuple[float, str]]:
    """Seconds and name of each test of a report in JUnit's format; none when it was not written."""
    if not report.exists():
        return []
    cases = ElementTree.parse(report).iter("testcase")
    return [(float(case.get("time", "0")), f"{case.get('classname')}::{case.get('name')}") for case in cases]


def slowest(took: Iterable[tuple[float, str]]) -> list[str]:
    """A line for each of those that took longest."""
    return [f"{seconds:8.1f} s  {name}" for seconds, name in sorted(took, reverse=True)[:SLOWEST]]


def budget(wall_s: float, cpu: cpu_time.CpuTime) -> str:
    """What was used, beside what may be."""
    return (
        f"{_minutes(wall_s)} of at most {_minutes(BUDGET_S)} minutes, "
        f"{cpu.seconds:,.0f} of {BUDGET_S * BUDGET_CORES:,} CPU seconds ({cpu.of})"
    )


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def lanes(*, own_clusters: bool) -> dict[str, list[str]]:
    """What each lane runs. Two operators, and those who disturb the API server, need clusters of their own."""
    if not own_clusters:
        return {"cluster": CLUSTER, "machine": MACHINE}
    control = [*CLUSTER, *(f"--ignore={path}" for path in TRAINING)]
    return {"training": TRAINING, "control": control, "machine": MACHINE}


def main() -> int:
    """All lanes, with pytest's arguments from the command line."""
    pytest = [sys.executable, "-m", "pytest"]
    chosen = lanes(own_clusters=not os.environ.get("KUBECONFIG"))
    return run({name: [*pytest, *paths, *sys.argv[1:]] for name, paths in chosen.items()})


if __name__ == "__main__":
    sys.exit(main())
