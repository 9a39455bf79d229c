"""The update modes on a real Ray: the parameter server's actors, what is lost with a process, what is left behind."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.local import runs
from tests.local.runs import Started

pytestmark = pytest.mark.timeout(900)

EPOCHS = 16


def rows(started: Started) -> int:
    """Epochs in the curves so far."""
    curves = started.folder / "curves/attempt-0001.jsonl"
    return len(curves.read_text().splitlines()) if curves.exists() else 0


def shards(pid: int) -> list[int]:
    """The processes below a driver that hold parameters."""
    return [child for child in runs.descendants(pid) if "ShardActor" in runs.title(child)]


def test_an_asynchronous_training_outlives_a_killed_worker_and_a_killed_shard(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    file = runs.manifest(tmp_path, epochs=EPOCHS, update={"mode": "async", "shards": 2, "stalenessScaling": "inverse"})
    started = runs.start(str(file), "--run-dir", str(folder), folder=folder)
    started.wait_until(lambda: rows(started) >= 1)
    assert len(shards(started.process.pid)) == 2
    # The server lives: the new group goes on from what it holds.
    os.kill(runs.training_processes(started.process.pid)[-1], signal.SIGKILL)
    before = rows(started)
    started.wait_until(lambda: rows(started) >= before + 2)
    below = runs.descendants(started.process.pid)
    # Half of the parameters are gone: the next group loads the last checkpoint.
    os.kill(shards(started.process.pid)[0], signal.SIGKILL)
    finished = started.wait()

    assert finished.code == 0, finished.err
    assert finished.err.count("restarting from the last checkpoint") == 2, finished.err
    assert finished.result["metrics"]["test"]["accuracy"] > 0.9
    assert [row["epoch"] for row in finished.curves] == list(range(1, EPOCHS + 1))
    assert all(row["stalenessMax"] <= 8 for row in finished.curves), "four for each worker"
    outcome = json.loads((folder / "ledger/attempt-0001/train.json").read_text())["output"]
    # Shares of 32 samples: 40 in each epoch, the last of them smaller. What was held or lost is leased again, and
    # counts once.
    assert sum(outcome["staleness"]) == outcome["step"] == EPOCHS * 40
    assert runs.alive(below) == []
