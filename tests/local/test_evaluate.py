"""The training workers evaluate on a real Ray, with the driver's numbers."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaling_api.spec import ScalingJob
from scaling_training.checkpoint import CheckpointRef
from scaling_training.data.access import TestAccess
from scaling_training.engine.launch import RayEngine
from scaling_training.engine.run import StoppedError, Watch
from scaling_training.engine.worker import Evaluation, WorkerTask
from scaling_training.train.types import TrainingProgress
from tests.local.runs import Finished

pytestmark = pytest.mark.timeout(600)


def evaluated(folder: str, job: str) -> tuple[dict[str, Any], int, bool]:
    """The metrics, how many workers counted, and whether a stop ends another evaluation."""
    spec = ScalingJob.model_validate(yaml.safe_load(Path(job).read_text())).spec
    trained = json.loads((Path(folder) / "ledger/attempt-0001/train.json").read_text())["output"]
    task = WorkerTask(
        spec=spec.to_json_dict(),
        storage_root=folder,
        attempt=1,
        job=Evaluation(CheckpointRef.from_dict(trained["best"]), TestAccess("evaluate")),
    )
    heard: list[TrainingProgress] = []
    watch = Watch(
        progress=heard.append, say=lambda said: None, mark=lambda name, at=0.0: None, stop_requested=lambda: False
    )
    engine = RayEngine(spec, None, lambda silent: None)
    found = engine.evaluate(task, watch)
    try:
        # A second group of the same process, as the driver has it after training.
        engine.evaluate(task, replace(watch, stop_requested=lambda: True))
    except StoppedError:
        return found, heard[-1].workers, True
    return found, heard[-1].workers, False


def test_two_workers_count_what_the_driver_does(straight: Finished, job: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        found, workers, stopped = process.submit(evaluated, str(straight.folder), str(job)).result()
    kept = json.loads((straight.folder / "metrics.json").read_text())
    for split in ("test", "validation"):
        assert found[split]["confusion"] == kept[split]["confusion"]
        assert found[split]["loss"] == pytest.approx(kept[split]["loss"], rel=1e-5)
    assert (workers, stopped) == (2, True)
