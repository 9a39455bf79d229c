"""The update modes on a real Ray: the parameter server's actors, a worker that is killed, what is left behind."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.local import runs

pytestmark = pytest.mark.timeout(240)

EPOCHS = 12
SAMPLES = 1259


def test_an_asynchronous_training_outlives_a_killed_worker(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    file = runs.manifest(tmp_path, epochs=EPOCHS, update={"mode": "async", "shards": 2, "stalenessScaling": "inverse"})
    started = runs.start(str(file), "--run-dir", str(folder), folder=folder)
    started.wait_until(lambda: len(started.checkpoints()) > 0)
    below = runs.descendants(started.process.pid)
    os.kill(runs.training_processes(started.process.pid)[-1], signal.SIGKILL)
    finished = started.wait()

    assert finished.code == 0, finished.err
    assert "restarting" in finished.out + finished.err
    assert finished.result["metrics"]["test"]["accuracy"] > 0.9
    assert [row["epoch"] for row in finished.curves] == list(range(1, EPOCHS + 1))
    assert all(row["stalenessMax"] <= 8 for row in finished.curves), "four for each worker"
    outcome = json.loads((folder / "ledger/attempt-0001/train.json").read_text())["output"]
    # Shares of 32 samples: 40 in each epoch, the last of them smaller. What a worker held when its group was
    # killed is leased again, and counts once.
    assert sum(outcome["staleness"]) == outcome["step"] == EPOCHS * 40
    assert runs.alive(below) == []
