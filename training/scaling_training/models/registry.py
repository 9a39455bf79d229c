"""The table of models, and building one for a data set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

from scaling_api.model import TorchvisionName
from scaling_api.spec import ModelSpec
from scaling_training.registry import lookup, table

if TYPE_CHECKING:
    import torch
    from torch import nn

    from scaling_training.data.targets import Kind
    from scaling_training.models.task import Task

log = logging.getLogger("scaling_training.models")

Shape = tuple[int, int, int]  # of an image: channels, height, width


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model by name. ``build`` takes the spec, the input's shape and the number of classes."""

    name: str
    description: str
    build: Callable[[ModelSpec, Shape, int], nn.Module] = field(repr=False)
    # Whether weights lie channels-last; for the convolutions of small-cnn that makes a step on CPU a third shorter.
    channels_last: Callable[[str], bool] = field(default=lambda name: True, repr=False)


def _small_cnn(spec: ModelSpec, input_shape: Shape, classes: int) -> nn.Module:
    from scaling_training.models.small_cnn import build

    return build(spec, input_shape, classes)


def _mnist_cnn(spec: ModelSpec, input_shape: Shape, classes: int) -> nn.Module:
    from scaling_training.models.mnist_cnn import build

    return build(spec, input_shape, classes)


def _vit_tiny(spec: ModelSpec, input_shape: Shape, classes: int) -> nn.Module:
    from scaling_training.models.vision_transformer import build

    return build(spec, input_shape, classes)


def _torchvision(spec: ModelSpec, input_shape: Shape, classes: int) -> nn.Module:
    from scaling_training.models.torchvision_models import build

    return build(spec, input_shape, classes)


def _torchvision_channels_last(name: str) -> bool:
    from scaling_training.models.torchvision_models import channels_last

    return channels_last(name)


MODELS: Mapping[str, ModelRecord] = table(
    ModelRecord(
        "small-cnn", "convolutions of 32, 64 and 128 channels with batch norm, a dense layer of 512", _small_cnn
    ),
    ModelRecord("mnist-cnn", "a convolution of 32 channels, a dense layer of 128", _mnist_cnn),
    ModelRecord("vit-tiny", "a vision transformer for small images", _vit_tiny, lambda name: False),
    *(
        ModelRecord(name, f"torchvision's {name}", _torchvision, _torchvision_channels_last)
        for name in get_args(TorchvisionName)
    ),
)


def build_task(
    spec: ModelSpec,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    seed: int,
    kind: Kind = "classes",
    class_names: Sequence[str] = (),
    label_smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
    initial_weights: bool = True,
    note: Callable[[str], None] | None = None,
) -> Task:
    """The task with its initial weights: those of ``spec.weights``, the rest a function of the seed.

    ``classes`` and ``kind`` say what is to be learned: that many classes, or labels, or numbers.

    ``initial_weights=False`` leaves ``spec.weights`` alone, for a caller that loads a checkpoint. What was taken from
    them, and what was not, is told to ``note``, or else logged.

    torch's own generator is left as it was. Dropout is keyed: run the model within ``dropout.keyed`` in training.
    Nothing is frozen yet: see ``freeze.apply_freeze``.

    UserError when the name is unknown, the model cannot take such inputs, a factory fails or returns no task,
    the weights do not fit, or ``spec.freeze`` names what is not there.
    """
    import torch

    from scaling_training.models.dropout import replace_dropout
    from scaling_training.models.freeze import check_freeze, head_of

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec.factory is not None:
            from scaling_training.models.user import task_from

            task = task_from(
                spec,
                facts={
                    "input_shape": input_shape,
                    "classes": classes,
                    "outputs": classes,
                    "class_names": tuple(class_names),
                    "label_smoothing": label_smoothing,
                    "class_weights": class_weights,
                },
            )
        else:
            task = _known(spec, input_shape, classes, kind, label_smoothing, class_weights)
    replace_dropout(task.model, p=spec.dropout, name=spec.title)
    if spec.weights is not None and initial_weights:
        from scaling_training.models.weights import load_initial

        (note or log.info)(load_initial(spec, task.model, head=head_of(task)).sentence)
    check_freeze(spec.freeze, [name for name, _ in task.model.named_parameters()], head=head_of(task))
    return task


def _known(
    spec: ModelSpec,
    input_shape: tuple[int, ...],
    outputs: int,
    kind: Kind,
    label_smoothing: float,
    class_weights: torch.Tensor | None,
) -> Task:
    import torch

    from scaling_training.errors import UserError
    from scaling_training.models.adapt import last_layer
    from scaling_training.models.task import ClassificationTask, MultiLabelTask, RegressionTask

    record = lookup(MODELS, str(spec.name), field="model.name")
    if len(input_shape) != 3:
        raise UserError(
            f"model {record.name} takes images, and the data set's samples have the shape {input_shape}; give a "
            "model.factory for them"
        )
    channels, height, width = input_shape
    model = record.build(spec, (channels, height, width), outputs)
    if record.channels_last(record.name):
        model = model.to(memory_format=torch.channels_last)
    head = last_layer(model)
    if kind == "labels":
        return MultiLabelTask(model, outputs, head=head)
    if kind == "numbers":
        return RegressionTask(model, outputs, head=head)
    return ClassificationTask(model, outputs, label_smoothing=label_smoothing, class_weights=class_weights, head=head)
