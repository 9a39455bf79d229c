"""What a user did wrong is said in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from tests.local import runs

pytestmark = pytest.mark.timeout(900)


def test_a_loss_that_is_not_finite_ends_the_run_at_once(tmp_path: Path) -> None:
    file = runs.manifest(tmp_path, optimizer={"name": "sgd", "learningRate": 100.0, "weightDecay": 10.0})
    finished = runs.run(str(file), "--run-dir", str(tmp_path / "run"), folder=tmp_path / "run")
    assert finished.code == 2, finished.err
    assert "lower training.optimizer.learningRate" in finished.err.splitlines()[-1]
    assert "Traceback" not in finished.err
    assert "restarting" not in finished.err


def _weights(folder: Path) -> dict[str, Any]:
    save_file({"0.weight": torch.zeros(16, 1, 3, 3)}, str(folder / "weights.safetensors"))
    return {"model": {"name": "small-cnn", "weights": {"uri": str(folder / "weights.safetensors")}}}


def _code(folder: Path, source: str) -> dict[str, Any]:
    (folder / "mine.py").write_text(source)
    return {"model": {"factory": "mine:task"}, "code": {"uri": str(folder / "mine.py")}}


def _images(folder: Path, **classes: int) -> dict[str, Any]:
    for name, count in classes.items():
        (folder / "images" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (8, 8), number).save(folder / "images" / name / f"{number}.png")
    return {"dataset": {"name": "image-folder", "uri": str(folder / "images"), "imageSize": 8, "channels": 1}}


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        pytest.param(
            lambda folder: {"training": {"epochs": 1, "parallelism": {"tensor": 3}}, "model": {"name": "vit-tiny"}},
            "training.parallelism.tensor 3 does not divide the 4 attention heads",
            id="a mesh that does not divide the model",
        ),
        pytest.param(_weights, "weights.safetensors", id="weights of other shapes"),
        pytest.param(
            lambda folder: _code(folder, "def task():\n    return None\n"),
            "model.factory mine:task returned nothing",
            id="a factory that returns nothing",
        ),
        pytest.param(lambda folder: _images(folder, cat=10), "has 1 class (cat); two are needed", id="one class"),
        pytest.param(
            lambda folder: _images(folder, cat=10, dog=1),
            "class dog has 1 samples, too few",
            id="a split that leaves a class out",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_ray_starts(
    sections: Callable[[Path], dict[str, Any]], sentence: str, tmp_path: Path
) -> None:
    file = runs.manifest(tmp_path)
    document = yaml.safe_load(file.read_text())
    document["spec"] |= sections(tmp_path)
    file.write_text(yaml.safe_dump(document))
    finished = runs.run(str(file), "--run-dir", str(tmp_path / "run"), folder=tmp_path / "run")
    assert finished.code == 2, finished.err
    assert sentence in finished.err.splitlines()[-1]
    assert "Ray" not in finished.err
    assert "Traceback" not in finished.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["--resume", "nowhere"], "no such folder", id="resume of nothing"),
        pytest.param(["--resume", "."], "is no run folder", id="resume of another folder"),
        pytest.param(["--run-dir", "."], "is not an empty folder", id="run folder with something in it"),
        pytest.param(["--workers", "65"], "at most training.batchSize (64)", id="more workers than samples"),
    ],
)
def test_arguments(arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = runs.manifest(tmp_path)
    monkeypatch.chdir(tmp_path)
    finished = runs.run(str(file), *arguments, folder=tmp_path)
    assert finished.code == 2
    assert sentence in finished.err
    assert len(finished.err.splitlines()) == 1
