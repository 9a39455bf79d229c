"""The examples of tasks without classes, from their files to what is shown of them, by the driver without Ray."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from rich.console import Console

from scaling_api.spec import ScalingJob
from scaling_training import driver
from scaling_training.driver import drive
from scaling_training.ending import Ending
from scaling_training.report.artifact import load_model
from scaling_training.report.summary import print_summary
from scaling_training.settings import Settings
from scaling_training.storage import Storage
from tests.unit.scaling_training.stages.test_stages import OneProcess

ROOT = Path(__file__).parents[3]


def the_example(name: str, **training: Any) -> ScalingJob:
    """The job of `examples/<name>.yaml` by one process; its code from wherever the test runs."""
    document = yaml.safe_load((ROOT / f"examples/{name}.yaml").read_text())
    spec = document["spec"]
    spec["code"]["uri"] = str(ROOT / spec["code"]["uri"])
    spec["training"] |= {"parallelism": {}, **training}
    return ScalingJob.model_validate(document)


def driven(job: ScalingJob, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Ending:
    monkeypatch.setattr(driver, "RayEngine", lambda *arguments, **more: OneProcess())
    ending = drive(Settings(job, Storage(str(folder)), 1), shows=[], give_up=lambda *said: None)
    assert ending.termination is None, ending.termination
    return ending


def test_regression_ends_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ending = driven(the_example("regression"), tmp_path, monkeypatch)

    assert ending.result is not None
    assert ending.report is not None
    test = ending.result["metrics"]["test"]
    assert test.keys() == {"mse", "mae", "r2", "loss"}
    assert test["r2"] > 0.3, "the mean has 0"
    assert ending.result["objective"] == {"metric": "mse", "mode": "min"}
    told = ending.report.objective
    assert told is not None
    assert (told.split, told.summary) == ("test", f"mse {test['mse']:.4f}")
    assert ending.report.accuracy is None
    assert ending.report.result is not None
    assert ending.report.result.metrics == test
    rows = json.loads((tmp_path / "curves.json").read_text())
    best = min(rows, key=lambda row: row["valMse"])
    assert ending.result["training"]["checkpoint"].endswith(f"step-{best['step']:08d}")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 1000
    buffer = io.StringIO()
    print_summary(Console(file=buffer, width=80), ending.result)
    assert f"{test['mse']:.4f}" in buffer.getvalue()


def test_multi_label_classification_by_a_model_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = the_example("multilabel", epochs=4, earlyStopping={"metric": "exactMatch", "patience": 50})
    ending = driven(job, tmp_path, monkeypatch)

    assert ending.result is not None
    assert ending.report is not None
    test = ending.result["metrics"]["test"]
    assert test["f1"] > 0.8
    assert ending.result["objective"] == {"metric": "exactMatch", "mode": "max"}, "what the user judges by"
    assert ending.report.objective is not None
    assert ending.report.objective.summary == f"exactMatch {test['exactMatch']:.4f}"
    kept = json.loads((tmp_path / "metrics.json").read_text())
    assert [row["label"] for row in kept["test"]["per_label"]] == ["even", "prime", "above four", "closed loop"]
    analysis = json.loads((tmp_path / "analysis.json").read_text())
    assert [item["name"] for item in analysis["classes"]] == ["even", "prime", "above four", "closed loop"]
    near = [shared["near"] for shared in analysis["leakage"]["shared"]]
    assert not any(near), "digits of different labels look alike to the hash, so it tells nothing"
    trained = load_model(str(tmp_path / "model"))
    assert (trained.kind, trained.class_names) == ("labels", ("even", "prime", "above four", "closed loop"))
