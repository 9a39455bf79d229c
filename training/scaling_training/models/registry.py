"""The table of models, and building one for a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scaling_api.spec import ModelSpec
from scaling_training.registry import lookup, table

if TYPE_CHECKING:
    from scaling_training.models.task import ClassificationTask

Shape = tuple[int, ...]  # of an image: channels, height, width


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model by name. ``build`` takes the spec, the input's shape and the number of classes."""

    name: str
    description: str
    build: Callable[[ModelSpec, Shape, int], ClassificationTask] = field(repr=False)


def _small_cnn(spec: ModelSpec, input_shape: Shape, classes: int) -> ClassificationTask:
    from scaling_training.models.small_cnn import build

    return build(spec, input_shape, classes)


MODELS: Mapping[str, ModelRecord] = table(
    ModelRecord(
        "small-cnn", "convolutions of 32, 64 and 128 channels with batch norm, a dense layer of 512", _small_cnn
    ),
)


def build_task(spec: ModelSpec, *, input_shape: Shape, classes: int, seed: int) -> ClassificationTask:
    """The task with initial weights that are a function of the seed; torch's own generator is left as it was.

    UserError when the name is unknown or the model cannot take such inputs.
    """
    import torch

    record = lookup(MODELS, spec.name, field="model.name")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return record.build(spec, input_shape, classes)
