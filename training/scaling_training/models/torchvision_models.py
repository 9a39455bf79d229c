"""torchvision's classification models by their names, fitted to a data set.

Whatever fits is torchvision's own: its constructors, its initial weights. Fitted are the number of classes, the
channels of the first convolution, the width where the architecture has such a number, and the pooling before the
dense layers. Before any memory is taken the model runs once without data (on torch's meta device), which shows
whether it can take images of this size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from scaling_api.spec import ModelSpec
from scaling_training.errors import UserError
from scaling_training.models.adapt import adapt_channels, without_pooling
from scaling_training.models.small_cnn import Shape

# Tried in turn to say which image size would do.
_SIZES = (8, 16, 24, 28, 32, 48, 56, 64, 75, 96, 128, 160, 192, 224, 256, 299)
_RGB = 3
_FIXED = "torchvision fixes its layer sizes"
_Wide = Callable[[str, float, dict[str, Any]], nn.Module]


def _mobilenet(name: str, width: float, arguments: dict[str, Any]) -> nn.Module:
    from torchvision import models

    return _module(models.get_model_builder(name)(width_mult=width, **arguments))


def _mnasnet(name: str, width: float, arguments: dict[str, Any]) -> nn.Module:
    from torchvision.models import MNASNet

    alpha = float(name.removeprefix("mnasnet").replace("_", "."))
    return _module(MNASNet(alpha * width, **arguments))


def _shufflenet(name: str, width: float, arguments: dict[str, Any]) -> nn.Module:
    from torchvision.models import ShuffleNetV2

    channels = {
        "0_5": (24, 48, 96, 192, 1024),
        "1_0": (24, 116, 232, 464, 1024),
        "1_5": (24, 176, 352, 704, 1024),
        "2_0": (24, 244, 488, 976, 2048),
    }[name[-3:]]
    # A block works on two halves of its channels.
    return _module(ShuffleNetV2([4, 8, 4], [max(2, 2 * round(count * width / 2)) for count in channels], **arguments))


def _bottlenecks(name: str, width: float, arguments: dict[str, Any]) -> nn.Module:
    """The inner channels of each bottleneck, as in wide residual networks (Zagoruyko and Komodakis 2016)."""
    from torchvision.models.resnet import Bottleneck, ResNet

    layers = {"50": [3, 4, 6, 3], "101": [3, 4, 23, 3], "152": [3, 8, 36, 3]}
    groups, per_group = {
        "resnext50_32x4d": (32, 4),
        "resnext101_32x8d": (32, 8),
        "resnext101_64x4d": (64, 4),
        "wide_resnet50_2": (1, 128),
        "wide_resnet101_2": (1, 128),
    }.get(name, (1, 64))
    depth = layers[name.removeprefix("wide_").split("_")[0].lstrip("resnxt")]
    return _module(
        ResNet(Bottleneck, depth, groups=groups, width_per_group=max(1, round(per_group * width)), **arguments)
    )


def _densenet(name: str, width: float, arguments: dict[str, Any]) -> nn.Module:
    from torchvision.models import DenseNet

    blocks = {"121": (6, 12, 24, 16), "161": (6, 12, 36, 24), "169": (6, 12, 32, 32), "201": (6, 12, 48, 32)}[name[-3:]]
    growth, first = (48, 96) if name == "densenet161" else (32, 64)
    return _module(DenseNet(max(1, round(growth * width)), blocks, max(2, round(first * width)), **arguments))


def _convnext(name: str, width: float, arguments: dict[str, Any]) -> nn.Module:
    from torchvision.models import ConvNeXt
    from torchvision.models.convnext import CNBlockConfig

    first, third, drop = {
        "tiny": (96, 9, 0.1),
        "small": (96, 27, 0.4),
        "base": (128, 27, 0.5),
        "large": (192, 27, 0.5),
    }[name.removeprefix("convnext_")]
    sizes = [max(1, round(first * width)) * 2**stage for stage in range(4)]
    setting = [
        CNBlockConfig(size, after, layers)
        for size, after, layers in zip(sizes, [*sizes[1:], None], (3, 3, third, 3), strict=True)
    ]
    return _module(ConvNeXt(setting, stochastic_depth_prob=drop, **arguments))


def _transformer(name: str, width: float, arguments: dict[str, Any]) -> nn.Module:
    from torchvision.models import VisionTransformer

    depth, heads, head_size = {"b": (12, 12, 64), "l": (24, 16, 64), "h": (32, 16, 80)}[name[4]]
    hidden = max(1, round(heads * width)) * head_size
    patch = int(name.rpartition("_")[2])
    return _module(
        VisionTransformer(
            patch_size=patch,
            num_layers=depth,
            num_heads=hidden // head_size,
            hidden_dim=hidden,
            mlp_dim=4 * hidden,
            **arguments,
        )
    )


@dataclass(frozen=True, slots=True)
class _Family:
    """What models whose names begin alike have in common."""

    wide: _Wide | None = None
    why_fixed: str = ""  # finishes "has no width multiplier: "
    pool: str = ""  # the module before the dense layers that a flattened head does without
    parts: tuple[str, ...] = ()  # where the pooling is no module: what comes before it, and the dense layers
    channels_last: bool = True  # what makes convolutions faster; the others compute on tokens
    arguments: Callable[[Shape], dict[str, Any]] = field(default=lambda shape: {})
    builds_on: str = "meta"  # for the check; some constructors compute with tensors that must have values


def _no_auxiliary(shape: Shape) -> dict[str, Any]:
    # The extra heads give a second output that only the original recipe trains.
    return {"aux_logits": False, "init_weights": True}


def _square(shape: Shape) -> dict[str, Any]:
    if shape[1] != shape[2]:
        raise ValueError("it takes square images only")
    return {"image_size": shape[1]}


# By the beginning of the name; the first that fits.
_FAMILIES: Mapping[str, _Family] = {
    "alexnet": _Family(why_fixed=_FIXED),
    "convnext": _Family(_convnext, pool="avgpool"),
    "densenet": _Family(_densenet, parts=("features", "relu", "classifier")),
    "efficientnet": _Family(why_fixed="its variants are its widths; choose one of these", pool="avgpool"),
    "googlenet": _Family(why_fixed=_FIXED, pool="avgpool", arguments=_no_auxiliary),
    "inception": _Family(why_fixed=_FIXED, pool="avgpool", arguments=_no_auxiliary),
    "maxvit": _Family(
        why_fixed=_FIXED, channels_last=False, arguments=lambda shape: {"input_size": (shape[1], shape[2])}
    ),
    "mnasnet": _Family(_mnasnet, parts=("layers", "classifier")),
    "mobilenet_v2": _Family(_mobilenet, parts=("features", "classifier")),
    "mobilenet_v3": _Family(_mobilenet, pool="avgpool"),
    "regnet": _Family(why_fixed="its variants are its widths; choose one by its size", pool="avgpool", builds_on="cpu"),
    "resnet18": _Family(why_fixed="torchvision fixes the channels of its basic blocks", pool="avgpool"),
    "resnet34": _Family(why_fixed="torchvision fixes the channels of its basic blocks", pool="avgpool"),
    "resnet": _Family(_bottlenecks, pool="avgpool"),
    "resnext": _Family(_bottlenecks, pool="avgpool"),
    "shufflenet": _Family(_shufflenet),
    "squeezenet": _Family(why_fixed=_FIXED),
    "swin": _Family(why_fixed="its heads and channels grow together; choose t, s or b", channels_last=False),
    "vgg": _Family(why_fixed=_FIXED),
    "vit": _Family(_transformer, channels_last=False, arguments=_square),
    "wide_resnet": _Family(_bottlenecks, pool="avgpool"),
}


def build(spec: ModelSpec, input_shape: Shape, classes: int) -> nn.Module:
    """The model for images of this shape with torchvision's initial weights.

    UserError when it has no such width or head, or cannot take images of this size, before its memory is taken.
    """
    _check(spec, input_shape, classes)
    return _build(spec, input_shape, classes)


def channels_last(name: str) -> bool:
    """Whether the model is faster with its channels last."""
    return _family(name).channels_last


def _family(name: str) -> _Family:
    return next(family for prefix, family in _FAMILIES.items() if name.startswith(prefix))


def _build(spec: ModelSpec, input_shape: Shape, classes: int) -> nn.Module:
    from torchvision import models

    name = str(spec.name)
    family = _family(name)
    arguments = {"num_classes": classes, **family.arguments(input_shape)}
    if spec.width == 1 or family.wide is None:
        model = _module(models.get_model_builder(name)(**arguments))
    else:
        model = family.wide(name, spec.width, arguments)
    adapt_channels(model, input_shape[0])
    if hasattr(model, "transform_input"):
        # torchvision's weights of these were trained on images that were normalised in another way.
        named = spec.weights is not None and spec.weights.name is not None
        setattr(model, "transform_input", named and input_shape[0] == _RGB)  # noqa: B010
    if spec.head == "flatten" and (family.pool or family.parts):
        model = without_pooling(model, input_shape, pool=family.pool, parts=family.parts)
    return model


def _check(spec: ModelSpec, input_shape: Shape, classes: int) -> None:
    name = str(spec.name)
    family = _family(name)
    if spec.width != 1 and family.wide is None:
        raise UserError(f"model.width {spec.width:g}: {name} has no width multiplier: {family.why_fixed}")
    if spec.head == "flatten" and not (family.pool or family.parts):
        raise UserError(f"model.head flatten: {name} has no pooling that could be left out; remove head")
    problem = _problem(spec, input_shape, classes)
    if problem is None:
        return
    channels, height, width = input_shape
    fitting = [
        size for size in _SIZES if size > min(height, width) and not _problem(spec, (channels, size, size), classes)
    ]
    needed = f"it takes {fitting[0]}x{fitting[0]}, for example" if fitting else problem
    raise UserError(
        f"model {name} cannot take the data set's images of {height}x{width} pixels: {needed}; choose another image "
        "size or another model"
    )


def _problem(spec: ModelSpec, input_shape: Shape, classes: int) -> str | None:
    """Why the model cannot take such images; None when it can."""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            with torch.device(_family(str(spec.name)).builds_on):
                model = _build(spec, input_shape, classes)
            model.to("meta").eval()(torch.empty(2, *input_shape, device="meta"))
    except (RuntimeError, ValueError, ZeroDivisionError, AssertionError) as error:
        return " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return None


def _module(made: Any) -> nn.Module:
    assert isinstance(made, nn.Module)
    return made
