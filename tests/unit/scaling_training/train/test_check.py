from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from scaling_api.spec import ModelSpec, ScalingJobSpec
from scaling_training.data import open_dataset
from scaling_training.errors import UserError
from scaling_training.models import build_task
from scaling_training.models.task import ClassificationTask
from scaling_training.train.check import check_training
from tests.unit.scaling_training.builders import a_spec

_HERE = "tests.unit.scaling_training.train.test_check"
_SYNTHETIC = {"name": "synthetic", "samples": 100, "classes": 2}


def _job(**sections: Any) -> ScalingJobSpec:
    plain = a_spec().to_json_dict() | {"dataset": {"name": "digits"}, "training": {"epochs": 1}}
    return ScalingJobSpec.model_validate({**plain, **sections})


def _check(spec: ScalingJobSpec) -> None:
    check_training(spec, open_dataset(spec.dataset), lambda sentence: None)


def seven_classes() -> ClassificationTask:
    return ClassificationTask(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7)), 7)


def other_inputs(classes: int) -> ClassificationTask:
    return ClassificationTask(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(65, classes)), classes)


def numbers() -> Any:
    return np.zeros((40, 8, 8), dtype=np.uint8), np.linspace(0.5, 2, 40)


def fails() -> None:
    raise OSError("no such file")


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        pytest.param(
            {
                "dataset": {"factory": f"{_HERE}:numbers"},
                "training": {"epochs": 1, "earlyStopping": {"metric": "accuracy"}},
            },
            r"earlyStopping.metric accuracy is none of this data set, whose targets are numbers; write mse, mae, r2 or",
            id="a metric of other targets",
        ),
        pytest.param(
            {"dataset": _SYNTHETIC, "training": {"epochs": 1, "earlyStopping": {"metric": "top5Accuracy"}}},
            r"earlyStopping.metric top5Accuracy is none of this data set",
            id="the five best of two",
        ),
        pytest.param(
            {"dataset": {"factory": f"{_HERE}:numbers"}, "training": {"epochs": 1, "labelSmoothing": 0.1}},
            r"training.labelSmoothing is for classes, and the data set's targets are numbers",
            id="smoothing of numbers",
        ),
        pytest.param(
            {
                "dataset": _SYNTHETIC,
                "training": {
                    "epochs": 1,
                    "batchSize": 512,
                    "optimizer": {"name": "gradient-descent"},
                    "parallelism": {"data": 90},
                },
            },
            r"training.parallelism: data x fsdp divides the samples of a step by 90, and it has 70; lower an axis",
            id="more processes than samples",
        ),
        pytest.param(
            {"model": {"name": "vit-tiny"}, "training": {"epochs": 1, "parallelism": {"tensor": 5}}},
            r"training.parallelism.tensor 5 does not divide the 4 attention heads",
            id="a mesh that does not divide the model",
        ),
        pytest.param(
            {"model": {"name": "vit-tiny"}, "training": {"epochs": 1, "parallelism": {"pipeline": 40}}},
            r"training.parallelism.pipeline 40",
            id="more stages than the model has parts",
        ),
        pytest.param(
            {"model": {"factory": f"{_HERE}:other_inputs"}},
            r"model.factory: the task cannot compute its loss on samples of the data set \(shape \(1, 8, 8\)",
            id="a factory's model for other inputs",
        ),
        pytest.param(
            {"model": {"factory": f"{_HERE}:seven_classes"}},
            r"model.factory: ClassificationTask was made for 7 classes, and the data set has 10; let the function",
            id="a head of other classes",
        ),
        pytest.param({"model": {"factory": f"{_HERE}:fails"}}, r"raised OSError: no such file", id="a factory fails"),
        pytest.param(
            {"model": {"name": "small-cnn", "freeze": [{"layers": "stem"}]}},
            r"model.freeze\[0\].layers stem: the model has no parameters of this name",
            id="layers that are not there",
        ),
        pytest.param(
            {"model": {"name": "alexnet"}, "dataset": _SYNTHETIC},
            r"model alexnet cannot take the data set's images of 32x32 pixels",
            id="images too small",
        ),
    ],
)
def test_what_does_not_fit_is_refused(sections: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        _check(_job(**sections))


def test_the_user_is_told_which_weights_are_taken(tmp_path: Path) -> None:
    wide = ModelSpec.model_validate({"name": "small-cnn", "width": 0.125})
    tensors = build_task(wide, input_shape=(1, 8, 8), classes=3, seed=0).model.state_dict()
    save_file({name: value.contiguous() for name, value in tensors.items()}, str(tmp_path / "weights.safetensors"))
    uri = str(tmp_path / "weights.safetensors")
    spec = _job(model={"name": "small-cnn", "width": 0.125, "weights": {"uri": uri}})
    sentences: list[str] = []
    check_training(spec, open_dataset(spec.dataset), sentences.append)
    (sentence,) = sentences
    assert sentence.startswith(f"The model starts from 20 tensors of model.weights.uri {uri}; new ones for 15.bias")


def test_weights_of_other_shapes_are_refused(tmp_path: Path) -> None:
    save_file({"0.weight": torch.zeros(16, 1, 3, 3)}, str(tmp_path / "weights.safetensors"))
    spec = _job(model={"name": "small-cnn", "weights": {"uri": str(tmp_path / "weights.safetensors")}})
    with pytest.raises(UserError, match=r"model.weights.uri .*weights.safetensors"):
        _check(spec)


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param({"model": {"name": "mobilenet_v2"}, "dataset": _SYNTHETIC}, id="built without memory"),
        pytest.param({"model": {"name": "regnet_y_400mf"}, "dataset": _SYNTHETIC}, id="built with memory"),
        pytest.param({"training": {"epochs": 1, "parallelism": {"tensor": 2}}}, id="divided layers"),
        pytest.param(
            {"model": {"name": "vit-tiny"}, "training": {"epochs": 1, "parallelism": {"pipeline": 2}}}, id="stages"
        ),
        pytest.param({"training": {"epochs": 1, "parallelism": {"auto": True}}}, id="a mesh that will be chosen"),
    ],
)
def test_what_fits_passes(sections: dict[str, Any]) -> None:
    _check(_job(**sections))


def test_a_plain_model_is_not_worth_importing_torch() -> None:
    code = (
        "import sys\n"
        "from tests.unit.scaling_training.builders import a_spec\n"
        "from scaling_training.data import open_dataset\n"
        "from scaling_training.train.check import check_training\n"
        "spec = a_spec(parallelism={'data': 2})\n"
        "check_training(spec, open_dataset(spec.dataset), print)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
