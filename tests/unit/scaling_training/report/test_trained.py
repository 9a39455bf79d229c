from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from scaling_api.spec import ScalingJobSpec
from scaling_training import code
from scaling_training.checkpoint.tensors import file_image
from scaling_training.data import open_dataset
from scaling_training.errors import UserError
from scaling_training.models.job import job_task
from scaling_training.models.task import ClassificationTask, MultiLabelTask, RegressionTask, Task
from scaling_training.report.artifact import load_model, write_model
from scaling_training.report.trained import TrainedModel
from scaling_training.storage import Storage
from tests.unit.scaling_training.models.test_own_task import OwnTask

_SOURCE = """
import numpy as np
from torch import nn

from scaling_training.models.task import RegressionTask


def model(*, input_shape, outputs):
    return RegressionTask(nn.Sequential(nn.Linear(*input_shape, 4), nn.Linear(4, outputs)), outputs)


def data():
    inputs = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    return inputs, inputs.sum(axis=1)
"""


def written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Task]:
    """The folder of a model from a factory in a file that is gone, in a process that has never imported it."""
    file = folder / "sums.py"
    file.write_text(_SOURCE)
    spec = ScalingJobSpec.model_validate(
        {
            "code": {"uri": str(file)},
            "model": {"factory": "sums:model"},
            "dataset": {"factory": "sums:data"},
            "training": {"epochs": 1},
        }
    )
    before = list(sys.path)
    monkeypatch.setattr(code, "_installed", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert spec.code is not None
    code.install(spec.code)
    dataset = open_dataset(spec.dataset)
    task = job_task(spec, dataset, device=torch.device("cpu"))
    model = folder / "a model"
    write_model(Storage(str(model)).write, bytes(file_image(task.model.state_dict())), spec, dataset)
    file.unlink()
    monkeypatch.setattr(sys, "path", before)
    monkeypatch.delitem(sys.modules, "sums")
    return str(model), task


def test_a_model_from_a_factory_brings_its_code_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, task = written(tmp_path, monkeypatch)
    trained = load_model(folder)
    samples = np.ones((3, 3), dtype=np.float32)
    expected = task.model.eval()(torch.ones(3, 3))[:, 0].tolist()
    assert trained.predict(samples) == pytest.approx(expected)
    assert (trained.kind, trained.class_names, trained.model.training) == ("numbers", (), False)
    del sys.modules["sums"]


def test_another_module_of_the_same_name_is_not_called_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = written(tmp_path, monkeypatch)
    other = tmp_path / "other"
    other.mkdir()
    (other / "sums.py").write_text("def model():\n    return None\n")
    monkeypatch.syspath_prepend(str(other))
    import sums  # type: ignore[import-not-found]

    with pytest.raises(UserError, match=r"code/sums.py: this process has imported another module sums, .*other/sums"):
        load_model(folder)
    del sys.modules["sums"]
    assert sums


def of(task: Any, shape: tuple[int, ...], names: tuple[str, ...] = (), max_value: int | None = None) -> TrainedModel:
    normalisation = max_value and {"maxValue": max_value, "mean": [0.5], "std": [0.25]}
    return TrainedModel(
        task,
        kind="classes",
        class_names=names,
        architecture={"inputShape": list(shape), "normalisation": normalisation},
    )


class Means(nn.Module):
    """Scores that can be told by eye: the mean of the inputs, and its opposite."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        mean = inputs.flatten(1).mean(dim=1)
        return torch.stack([mean, -mean], dim=1)


def test_predictions_are_names_and_numbers() -> None:
    samples = np.array([[2.0], [-2.0]], dtype=np.float32)
    assert of(ClassificationTask(Means(), 2), (1,), ("plus", "minus")).predict(samples) == ["plus", "minus"]
    assert of(MultiLabelTask(Means(), 2), (1,), ("plus", "minus")).predict(samples) == [["plus"], ["minus"]]
    assert of(RegressionTask(Means(), 2), (1,)).predict(samples) == [[2.0, -2.0], [-2.0, 2.0]]
    assert of(RegressionTask(nn.Identity()), (1,)).predict(samples) == [2.0, -2.0]
    probabilities = of(ClassificationTask(Means(), 2), (1,), ("plus", "minus")).scores(samples)
    assert probabilities.sum(dim=1).tolist() == pytest.approx([1, 1])


def test_images_are_normalised_as_in_training() -> None:
    trained = of(ClassificationTask(Means(), 2), (1, 2, 2), ("a", "b"), max_value=16)
    pixels = np.full((3, 2, 2), 12, dtype=np.uint8)
    inputs = trained.inputs(pixels)
    assert inputs.shape == (3, 1, 2, 2)
    assert (inputs == 1.0).all()
    assert torch.equal(trained.inputs(pixels[:, None]), inputs)


@pytest.mark.parametrize("path", [str, Path])
def test_one_path_is_one_sample(tmp_path: Path, path: type[str] | type[Path]) -> None:
    images = of(ClassificationTask(Means(), 2), (1, 8, 8), ("bright", "dark"), max_value=255)
    Image.new("L", (8, 8), 255).save(tmp_path / "one.png")
    assert images.predict(path(tmp_path / "one.png")) == ["bright"]
    with pytest.raises(UserError, match=r"missing\.png cannot be read"):
        images.predict(path(tmp_path / "missing.png"))


def test_whole_numbers_stay_whole() -> None:
    assert of(ClassificationTask(Means(), 2), (4,)).inputs(np.ones((2, 4), dtype=np.int32)).dtype == torch.int64


def test_what_cannot_be_predicted_is_a_sentence(tmp_path: Path) -> None:
    images = of(ClassificationTask(Means(), 2), (1, 8, 8), ("a", "b"), max_value=255)
    with pytest.raises(UserError, match=r"samples of the shape \(1, 9, 9\): the model takes \(1, 8, 8\)"):
        images.predict(np.zeros((2, 9, 9), dtype=np.uint8))
    (tmp_path / "torn.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"torn\.png cannot be read"):
        images.predict([tmp_path / "torn.png"])
    with pytest.raises(UserError, match=r"missing\.png cannot be read"):
        images.predict([str(tmp_path / "missing.png")])
    with pytest.raises(UserError, match="not trained on image files"):
        of(ClassificationTask(Means(), 2), (4,)).predict(["photo.png"])
    with pytest.raises(UserError, match="what a OwnTask predicts only its author can say"):
        of(OwnTask(), (5,)).predict(np.zeros((1, 5), dtype=np.float32))
