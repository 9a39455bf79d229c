"""The update modes on a real Ray: the parameter server's actors, what is lost with a process, what is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from scaling_training.engine import session
from scaling_training.errors import UserError
from scaling_training.update.errors import ServerLostError
from scaling_training.update.messages import Group, Part, ShardState, Snapshot
from scaling_training.update.samples import Lease, SampleLedger, Worker
from tests.local import runs
from tests.local.runs import Started
from tests.unit.scaling_training.builders import a_spec

if TYPE_CHECKING:
    from scaling_training.engine.parameter_server import RayServer

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
    restarts = [line for line in finished.err.splitlines() if "restarting from the last checkpoint" in line]
    assert len(restarts) == 2, finished.err
    assert "training process" in restarts[0]
    assert re.search(r"shard [01] of the parameter server was lost; .*memory limit of cluster.head", restarts[1])
    assert finished.result["metrics"]["test"]["accuracy"] > 0.8
    assert [row["epoch"] for row in finished.curves] == list(range(1, EPOCHS + 1))
    assert all(row["stalenessMax"] <= 8 for row in finished.curves), "four for each worker"
    outcome = json.loads((folder / "ledger/attempt-0001/train.json").read_text())["output"]
    # Shares of 32 samples: 40 in each epoch, the last of them smaller. What was held or lost is leased again, and
    # counts once.
    assert sum(outcome["staleness"]) == outcome["step"] == EPOCHS * 40
    runs.assert_gone(below)


GROUP = Group(workers=1, samples=100, epochs=1, share=10, batch=10, bound=4, scaling=None)


def a_start() -> Snapshot:
    """Two shards of three weights each, before the first push."""
    none = np.empty(0, dtype=np.float32)
    states = [
        ShardState(0, Part((name,), ()), {name: (3,)}, np.ones(3, dtype=np.float32), none, {}) for name in ("a", "b")
    ]
    return Snapshot(SampleLedger().state_dict(), states)


def actors(kind: str) -> set[int]:
    """The processes below this one that are an actor of this class."""
    return {child for child in runs.descendants(os.getpid()) if kind in runs.title(child)}


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """A connection of this process to a Ray of its own."""
    session.tune_environment()
    with session.local(1, 0):
        yield


@pytest.fixture
def server(ray_here: None) -> Iterator[RayServer]:
    """A parameter server of two shards; nothing is left of it afterwards."""
    from scaling_training.engine.parameter_server import parameter_server

    with parameter_server(a_spec(update={"mode": "async", "shards": 2})) as served:
        yield served
    runs.assert_gone([*actors("ShardActor"), *actors("CoordinatorActor")])


@pytest.mark.parametrize(
    ("actor", "name", "is_back"),
    [
        pytest.param("ShardActor", "shard [01] of the parameter server", False, id="a shard that is away"),
        pytest.param("ShardActor", "shard [01] of the parameter server", True, id="a shard that came back empty"),
        pytest.param("CoordinatorActor", "the coordinator of the parameter server", False, id="the coordinator"),
    ],
)
def test_a_part_that_is_lost_is_named_and_a_new_group_starts_it_anew(
    server: RayServer, actor: str, name: str, is_back: bool
) -> None:
    worker = Worker(0, server.open(GROUP, a_start(), ()))
    lease = server.next(worker)
    assert isinstance(lease, Lease)
    gradient = [(np.ones(3, dtype=np.float32), np.empty(0, dtype=np.float32))] * 2
    server.push(worker, lease, gradient, 1.0)
    before = actors(actor)
    os.kill(min(before), signal.SIGKILL)
    while is_back and not actors(actor) - before:
        time.sleep(0.1)
    # Whatever is asked: nothing waits for what cannot come, and no snapshot with a hole is taken. Version 2 stands
    # for a push that was answered, and whose commit was lost on its way to the shards.
    with pytest.raises(ServerLostError, match=name):
        server.pull(2)
    if actor == "CoordinatorActor":
        with pytest.raises(ServerLostError, match=name):
            server.next(worker)
    with pytest.raises(ServerLostError, match=name):
        server.snapshot(drained=False)
    assert not server.live()

    again = Worker(0, server.open(GROUP, a_start(), ()))
    lease = server.next(again)
    assert isinstance(lease, Lease)
    assert server.push(again, lease, gradient, 1.0).counts.version == 1
    # Every shard has heard of it.
    for parameters, _ in ThreadPoolExecutor(1).submit(server.pull, 1).result(timeout=120):
        assert (parameters < 1.0).all()


def test_a_worker_that_cannot_go_on_has_rank_0_end_the_group(server: RayServer) -> None:
    incarnation = server.open(replace(GROUP, workers=2), a_start(), ())
    server.fail(Worker(1, incarnation), "the loss is none")
    with pytest.raises(UserError, match="the loss is none"):
        server.next(Worker(0, incarnation))
    with pytest.raises(UserError, match="the loss is none"):
        server.snapshot(drained=True)
    server.dismiss()
    assert server.next(Worker(1, incarnation)) is None
