from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import nn

from scaling_api.model import TorchvisionName
from scaling_api.spec import ModelSpec
from scaling_training.errors import UserError
from scaling_training.models import build_task
from scaling_training.models.adapt import with_channels
from scaling_training.models.task import ClassificationTask
from scaling_training.models.torchvision_models import build


def built(name: str, shape: tuple[int, int, int] = (1, 32, 32), classes: int = 7, **fields: Any) -> ClassificationTask:
    spec = ModelSpec.model_validate({"name": name, **fields})
    task = build_task(spec, input_shape=shape, classes=classes, seed=0)
    assert isinstance(task, ClassificationTask)
    return task


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def test_the_api_admits_all_of_torchvisions_classification_models() -> None:
    from torchvision import models

    assert list(get_args(TorchvisionName)) == models.list_models(module=models)


@pytest.mark.parametrize(
    ("name", "fields", "head"),
    [
        ("mobilenet_v2", {"width": 0.25}, "classifier.1"),
        ("mobilenet_v3_small", {"width": 0.5}, "classifier.3"),
        ("mnasnet0_5", {"width": 0.5}, "classifier.1"),
        ("shufflenet_v2_x0_5", {"width": 0.5}, "fc"),
        ("resnet18", {}, "fc"),
        ("resnet50", {"width": 0.125}, "fc"),
        ("resnext50_32x4d", {"width": 0.25}, "fc"),
        ("densenet121", {"width": 0.125}, "classifier"),
        ("convnext_tiny", {"width": 0.125}, "classifier.2"),
        ("squeezenet1_1", {}, "classifier.1"),
        ("vit_b_32", {"width": 0.125}, "heads.head"),
        ("efficientnet_b0", {}, "classifier.1"),
    ],
)
def test_a_model_is_fitted_to_channels_and_classes(name: str, fields: dict[str, Any], head: str) -> None:
    task = built(name, **fields)
    assert task.head == head
    assert task.model.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    "name",
    [
        *("mobilenet_v2", "mobilenet_v3_large", "mnasnet1_3", "shufflenet_v2_x1_5", "resnet50", "resnext101_64x4d"),
        *("wide_resnet101_2", "densenet161", "convnext_base", "vit_h_14"),
    ],
)
def test_a_width_scales_torchvisions_own_architecture(name: str) -> None:
    """By almost 1, which rounds to torchvision's channels everywhere, and by a half."""
    from torchvision import models

    size = 28 if name.startswith("vit") else 32
    fixed = {"image_size": size} if name.startswith("vit") else {}
    with torch.device("meta"):
        own = models.get_model_builder(name)(num_classes=7, **fixed)
        almost, half = (
            build(ModelSpec.model_validate({"name": name, "width": width}), (3, size, size), 7)
            for width in (1 + 1e-9, 0.5)
        )
    assert shapes(almost) == shapes(own)
    assert sum(map(torch.numel, half.parameters())) < 0.6 * sum(map(torch.numel, own.parameters()))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "mobilenet_v3_small", "convnext_tiny"])
def test_a_flattened_head_sees_the_whole_feature_map(name: str) -> None:
    with torch.device("meta"):
        pooled, flat = (
            build(ModelSpec.model_validate({"name": name, "head": head}), (3, 64, 96), 7) for head in (None, "flatten")
        )
    differing = [key for key, shape in shapes(pooled).items() if shapes(flat)[key] != shape]
    assert list(shapes(flat)) == list(shapes(pooled))
    assert len(differing) == 1
    # 64x96 pixels halve five times to 2x3.
    assert shapes(flat)[differing[0]][1] == 6 * shapes(pooled)[differing[0]][1]


@pytest.mark.parametrize(
    ("name", "shape", "fields", "sentence"),
    [
        ("alexnet", (1, 28, 28), {}, r"alexnet cannot take the data set's images of 28x28 pixels: it takes 64x64"),
        ("vit_b_16", (1, 28, 28), {}, r"vit_b_16 cannot take .* 28x28 pixels: it takes 32x32, for example"),
        ("vit_b_16", (1, 32, 48), {}, "vit_b_16 cannot take the data set's images of 32x48"),
        ("resnet18", (1, 32, 32), {"width": 0.5}, "width 0.5: resnet18 has no width multiplier: torchvision fixes"),
        ("efficientnet_b0", (1, 32, 32), {"width": 2.0}, "efficientnet_b0 has no width multiplier: its variants are"),
        ("vgg11", (1, 32, 32), {"head": "flatten"}, "head flatten: vgg11 has no pooling that could be left out"),
    ],
)
def test_what_a_model_cannot_do_is_refused(
    name: str, shape: tuple[int, int, int], fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        built(name, shape, **fields)


def test_the_seed_determines_the_weights_and_torchs_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = built("mobilenet_v2", width=0.25).model.state_dict()
    torch.manual_seed(6)
    again = built("mobilenet_v2", width=0.25).model.state_dict()
    torch.manual_seed(5)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_first_convolution_sees_a_grey_image_as_before(channels: int) -> None:
    weight, grey = torch.randn(4, 3, 3, 3, dtype=torch.float64), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    adapted = with_channels(weight, channels)
    expected = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight)
    found = nn.functional.conv2d(grey.expand(-1, channels, -1, -1), adapted)
    # The sum over the channels is the same when they come equally often; two of three do not.
    if channels in (1, 6):
        torch.testing.assert_close(found, expected)
    assert adapted.shape == (4, channels, 3, 3)


def test_convolutions_lie_channels_last_and_transformers_do_not() -> None:
    convolution = built("mobilenet_v2", width=0.25).model.get_parameter("features.1.conv.1.weight")
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    assert built("vit_b_32", width=0.125).model.get_parameter("conv_proj.weight").is_contiguous()
