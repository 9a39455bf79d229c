"""A driver whose storage is an object store, with credentials from its environment, as in a pod."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from scaling_api import driver as contract
from scaling_api.spec import ScalingJob
from scaling_training.storage import Storage
from tests import object_store
from tests.local import runs
from tests.local.runs import Finished, Started
from tests.object_store import ObjectStore

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with object_store.serving() as served:
        for name, value in served.environment.items():
            monkeypatch.setenv(name, value)
        yield served


def drive(job: Path, run: str, *, attempt: int, folder: Path) -> Started:
    """`scaling-driver`, told what the operator tells it, apart from a cluster."""
    spec = folder / "job.json"
    spec.write_text(ScalingJob.model_validate(yaml.safe_load(job.read_text())).model_dump_json(by_alias=True))
    contracted = {contract.ENV_SPEC: str(spec), contract.ENV_RUN_DIR: run, contract.ENV_ATTEMPT: str(attempt)}
    process = subprocess.Popen(
        [sys.executable, "-m", "scaling_training.driver"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **contracted, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    return Started(process, folder)


def committed(storage: Storage, attempt: int) -> list[str]:
    """Names of the committed checkpoints of an attempt."""
    folder = f"checkpoints/attempt-{attempt:04d}"
    return [name for name in storage.names(folder) if storage.exists(f"{folder}/{name}/MANIFEST.json")]


def test_a_killed_driver_is_resumed_from_the_object_store(
    store: ObjectStore, straight: Finished, job: Path, tmp_path: Path
) -> None:
    run = f"{store.uri}/team/digits-uid"
    storage = Storage(run)
    first = drive(job, run, attempt=1, folder=tmp_path)
    # One is all that a look is sure to find: those before it may be deleted between listing and asking.
    first.wait_until(lambda: committed(storage, 1) != [])
    below = runs.descendants(first.process.pid)
    first.process.kill()
    first.process.communicate()
    deadline = time.monotonic() + 120
    while runs.alive(below) and time.monotonic() < deadline:
        time.sleep(0.2)

    second = drive(job, run, attempt=2, folder=tmp_path).wait(600)
    assert second.code == 0, second.err
    base = storage.read("checkpoints/attempt-0002/BASE.json").decode()
    assert "attempt-0001/step-" in base
    for name in ("result.json", "curves.json"):
        (tmp_path / name).write_bytes(storage.read(name))
    resumed = Finished(second.code, second.out, second.err, tmp_path)
    assert resumed.result["artifacts"]["model"] == f"{run}/model"
    assert storage.names("model")
    assert len(resumed.curves) == len(straight.curves)
    for row, expected in zip(resumed.curves, straight.curves, strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)
