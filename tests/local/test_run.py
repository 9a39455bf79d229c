"""A run from a file to a model, and what its ledger saves a second time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.local import runs
from tests.local.runs import Finished

pytestmark = pytest.mark.timeout(900)


def test_a_run_leaves_a_good_model_its_metrics_and_its_curves(straight: Finished) -> None:
    result = straight.result
    assert result["metrics"]["test"]["accuracy"] > 0.95
    assert {"accuracy", "precision", "recall", "f1", "loss"} <= set(result["metrics"]["test"])
    assert straight.stage_states() == {
        "analyze": "Succeeded",
        "train": "Succeeded",
        "evaluate": "Succeeded",
        "report": "Succeeded",
    }
    assert [row["epoch"] for row in straight.curves] == list(range(1, runs.EPOCHS + 1))
    assert result["skipped"] == {"training": 0, "validation": 0, "test": 0}
    assert {"model", "curves", "metrics", "analysis", "result"} <= set(result["artifacts"])
    for uri in result["artifacts"].values():
        assert Path(uri).exists(), uri
    assert (straight.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert f"{result['metrics']['test']['accuracy']:.4f}" in straight.out


def test_the_model_can_be_loaded_again_and_agrees_with_the_reported_accuracy(straight: Finished) -> None:
    import numpy as np

    from scaling_api.spec import DatasetSpec
    from scaling_training.data import TestAccess, open_dataset
    from scaling_training.report import load_model

    test = open_dataset(DatasetSpec(name="digits")).open_test(TestAccess("report"))
    predicted = load_model(str(straight.folder / "model")).predict(test.read(np.arange(len(test))).values)
    accuracy = np.mean(np.array(predicted, dtype=int) == test.labels)
    assert accuracy == pytest.approx(straight.result["metrics"]["test"]["accuracy"], abs=1e-6)


def test_the_timeline_tells_the_way_to_the_first_step(straight: Finished) -> None:
    seconds = json.loads((straight.folder / "timeline/attempt-0001.json").read_text())["seconds"]
    assert 0 < seconds["rayReady"] < seconds["groupStarted"] < seconds["firstStep"] < seconds["stagesDone"]


def test_resuming_a_finished_run_is_answered_by_the_ledger(straight: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder)
    file = runs.manifest(tmp_path)
    again = runs.run(str(file), "--resume", str(folder), folder=folder)
    # The copy has another address, so only the report, which names addresses, is made anew. No Ray is started.
    assert again.code == 0, again.err
    assert again.stage_states() == {"analyze": "Reused", "train": "Reused", "evaluate": "Reused", "report": "Succeeded"}
    third = runs.run(str(file), "--resume", str(folder), folder=folder)
    assert third.stage_states() == {"analyze": "Reused", "train": "Reused", "evaluate": "Reused", "report": "Reused"}
    assert third.result["metrics"] == straight.result["metrics"]
    assert third.result["attempt"] == 3
    assert "starting Ray" not in again.err + third.err


def test_an_edit_runs_again_what_depends_on_it(straight: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder)
    file = runs.manifest(tmp_path, epochs=2, parallelism={})
    edited = runs.run(str(file), "--resume", str(folder), folder=folder)
    assert edited.code == 0, edited.err
    assert edited.stage_states() == {
        "analyze": "Reused",
        "train": "Succeeded",
        "evaluate": "Succeeded",
        "report": "Succeeded",
    }
    assert [row["epoch"] for row in edited.curves] == [1, 2]
    # Without parallelism.data and without a GPU, one process trains.
    assert "epoch 2/2" in edited.err
