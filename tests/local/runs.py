"""Running the command line as a person does, and looking at what it leaves."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

# On a machine that is loaded; a run takes half a minute on one that is not.
LIMIT_S = 600.0


# Of a run, if nothing else is said: enough for everything to happen to it before it ends.
EPOCHS = 160


def manifest(folder: Path, *, name: str = "digits", epochs: int = EPOCHS, **training: Any) -> Path:
    """A small job on digits that trains for some seconds; returns its file."""
    document = {
        "apiVersion": "scaling.dev/v1alpha1",
        "kind": "ScalingJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"name": "small-cnn", "width": 0.25},
            "dataset": {"name": "digits"},
            "training": {
                "epochs": epochs,
                "batchSize": 64,
                "optimizer": {"name": "adam", "learningRate": 2.0e-3},
                "parallelism": {"data": 2},
                **training,
            },
        },
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


@dataclass(slots=True)
class Started:
    """A command that runs."""

    process: subprocess.Popen[str]
    folder: Path

    def wait(self, timeout_s: float = LIMIT_S) -> Finished:
        """Its end; it is killed when that does not come."""
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self._give_up(f"it did not end within {timeout_s:.0f} s")
        return Finished(self.process.returncode, out, err, self.folder)

    def wait_until(self, reached: Callable[[], bool], timeout_s: float = LIMIT_S) -> None:
        """Wait for something to come true while the command runs; it is killed when that does not."""
        deadline = time.monotonic() + timeout_s
        while not reached():
            assert self.process.poll() is None, self.process.communicate()
            if time.monotonic() > deadline:
                self._give_up(f"what was waited for did not come within {timeout_s:.0f} s")
            time.sleep(0.05)

    def _give_up(self, why: str) -> NoReturn:
        os.killpg(self.process.pid, signal.SIGKILL)
        raise AssertionError(why, *self.process.communicate())

    def checkpoints(self, attempt: int = 1) -> list[str]:
        """Names of the committed checkpoints of an attempt."""
        return committed(self.folder, attempt)

    def newest(self) -> str:
        """The last of them; empty when the look fell between a commit and the deletion of those before it."""
        return max(self.checkpoints(), default="")


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def result(self) -> dict[str, Any]:
        """result.json."""
        value: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return value

    @property
    def curves(self) -> list[dict[str, float]]:
        """curves.json without the times, which differ from run to run."""
        rows = json.loads((self.folder / "curves.json").read_text())
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]

    def stage_states(self) -> dict[str, str]:
        """State of each stage in result.json."""
        return {stage["name"]: stage["state"] for stage in self.result["stages"]}


def start(*arguments: str, folder: Path) -> Started:
    """`scalingjob run …` in a process group of its own, as a shell would start it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "scaling_cli.main", "run", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    return Started(process, folder)


def run(*arguments: str, folder: Path, timeout_s: float = LIMIT_S) -> Finished:
    """The same, to its end."""
    return start(*arguments, folder=folder).wait(timeout_s)


def committed(folder: Path, attempt: int) -> list[str]:
    """Names of the committed checkpoints of an attempt, oldest first."""
    return sorted(path.parent.name for path in folder.glob(f"checkpoints/attempt-{attempt:04d}/*/MANIFEST.json"))


def contents(folder: Path) -> dict[str, str]:
    """Digests of all files below a folder, by their path in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def damage(file: Path) -> None:
    """Change a byte in its middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def descendants(pid: int) -> list[int]:
    """All processes below one, by /proc."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    return [child for child in parents if child != pid and pid in _ancestors(child, parents)]


def _ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid in parents:
        pid = parents[pid]
        yield pid


def training_processes(pid: int) -> list[int]:
    """The training processes below a driver."""
    return [child for child in descendants(pid) if "TrainingProcess" in title(child)]


def title(pid: int) -> str:
    """Its command line, or what Ray made of it; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def alive(pids: list[int]) -> list[int]:
    """Those that still run; a zombie does not."""

    def runs(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    return [pid for pid in pids if runs(pid)]


def assert_gone(pids: list[int]) -> None:
    """They have ended, or do so soon: whoever is told to end does it in its own time."""
    deadline = time.monotonic() + 120
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert alive(pids) == []


def interrupt(started: Started) -> None:
    """Ctrl-C on a terminal: every process of the foreground group gets it."""
    os.killpg(started.process.pid, signal.SIGINT)
