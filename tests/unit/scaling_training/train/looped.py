"""Small runs of the whole loop on any mesh, in 64 or 32 bits, and what is left of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scaling_api.spec import ModelSpec, ScalingJobSpec
from scaling_training.checkpoint.state import HISTORY
from scaling_training.checkpoint.weights import weights_file
from scaling_training.data.batches import Batch
from scaling_training.models import small_cnn
from scaling_training.models.task import ClassificationTask
from scaling_training.models.vision_transformer import VisionTransformer
from scaling_training.storage import Storage
from scaling_training.train import TrainOutcome, World
from scaling_training.train.history import Row, parse_rows
from scaling_training.train.loop import train
from scaling_training.world.heartbeat import Beat, silent

ALONE = World(0, 1, torch.device("cpu"))
SAMPLES = 72  # of the training split; batches of 25, 25 and 22
STEPS_PER_EPOCH = 3


class InDoubles(ClassificationTask):
    """Computes in 64 bits, although images come in 32."""

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        return (batch.inputs.double(),)


def _small_cnn(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return small_cnn.build(ModelSpec(name="small-cnn", width=0.125), shape, classes)


def _transformer(shape: tuple[int, int, int], classes: int, blocks: int = 1) -> nn.Module:
    model = VisionTransformer(shape, classes, patch=4, heads=4, flatten=False)
    model.blocks = model.blocks[:blocks]
    return model


def _linear(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))


_BUILDERS: Mapping[str, Callable[[tuple[int, int, int], int], nn.Module]] = {
    "small-cnn": _small_cnn,
    "transformer": _transformer,
    "two blocks": partial(_transformer, blocks=2),
    "linear": _linear,
}
_HEADS = {"small-cnn": "15", "transformer": "head", "two blocks": "head", "linear": "1"}


def task(
    kind: str, bits: float, input_shape: tuple[int, int, int], classes: int, label_smoothing: float
) -> ClassificationTask:
    """The factory of the specs."""
    model = _BUILDERS[kind](input_shape, classes)
    if bits == 64:
        return InDoubles(model.double(), classes, label_smoothing, head=_HEADS[kind])
    return ClassificationTask(model, classes, label_smoothing, head=_HEADS[kind])


def a_run(
    kind: str,
    *,
    bits: int = 64,
    mixup: float = 0.0,
    samples: int = 100,
    model: Mapping[str, Any] | None = None,
    **training: Any,
) -> ScalingJobSpec:
    """Two epochs of three steps on made images; keyword arguments go over the training section (camelCase)."""
    factory = f"{__name__}:{task.__name__}"
    return ScalingJobSpec.model_validate(
        {
            "model": {"factory": factory, "arguments": {"kind": kind, "bits": bits}, **(model or {})},
            "dataset": {
                "name": "synthetic",
                "samples": samples,
                "classes": 4,
                "imageSize": 8,
                "channels": 1,
                "augmentation": {"rotation": 10, "horizontalFlip": 0.5, "mixup": mixup},
            },
            "training": {
                "epochs": 2,
                "batchSize": 25,
                "optimizer": {"name": "sgd", "learningRate": 0.05, "momentum": 0.9},
                **training,
            },
        }
    )


def on(spec: ScalingJobSpec, mesh: Mapping[str, int]) -> ScalingJobSpec:
    """The same run on another mesh, with whatever it says of batch norm."""
    batch_norm = spec.training.parallelism.batch_norm
    parallelism = type(spec.training.parallelism).model_validate({**mesh, "batchNorm": batch_norm})
    return spec.model_copy(update={"training": spec.training.model_copy(update={"parallelism": parallelism})})


@dataclass(frozen=True)
class Run:
    """What is left of a run."""

    outcome: TrainOutcome
    rows: list[Row]  # without the time
    weights: dict[str, np.ndarray[Any, Any]]  # the averages, where there are some
    files: dict[str, bytes]  # of the last checkpoint, whose tensors they hold


def run(
    world: World,
    spec: ScalingJobSpec,
    root: str,
    *,
    attempt: int = 1,
    stop_at: int | None = None,
    beat: Beat = silent,
) -> Run | None:
    """Train, to the end or until stopped in step ``stop_at`` (from 1) of this attempt. The rest is rank 0's."""
    asked = iter(range(1, 1000))
    outcome = train(
        spec,
        storage=Storage(root),
        attempt=attempt,
        world=world,
        observer=lambda progress: None,
        stop_requested=lambda: next(asked) == stop_at,
        beat=beat,
        key="key",
        resume=None,
    )
    return left_of(root, outcome) if world.is_first else None


def run_alone(spec: ScalingJobSpec, root: str, **more: Any) -> Run:
    """`run` in this process."""
    found = run(ALONE, on(spec, {}), root, **more)
    assert found is not None
    return found


def left_of(root: str, outcome: TrainOutcome) -> Run:
    """What lies in storage."""
    from safetensors.numpy import load

    storage = Storage(root)
    folder = Path(root) / outcome.checkpoint.folder
    curves = parse_rows((folder / HISTORY).read_bytes())
    rows: list[Row] = [{name: value for name, value in row.items() if name != "seconds"} for row in curves]
    files = {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}
    return Run(outcome, rows, load(weights_file(storage, outcome.checkpoint)), files)


def copied(world: World, root: str, to: str) -> str:
    """The run folder once more, made by rank 0, so that the run can go on twice."""
    import torch.distributed as dist

    if world.is_first:
        shutil.copytree(root, to)
    if world.size > 1:
        dist.barrier()
    return to


def assert_same(found: Run, expected: Run, tolerance: float, what: object = "") -> None:
    """Curves to that relative tolerance; weights too, relative to their tensor's largest number."""
    assert len(found.rows) == len(expected.rows), what
    for row, other in zip(found.rows, expected.rows, strict=True):
        assert row == pytest.approx(other, rel=tolerance), what
    name, size = difference(found, expected)
    assert size <= tolerance, f"{what}: {name} differs by {size:.1e}"


def difference(found: Run, expected: Run) -> tuple[str, float]:
    """The tensor that differs most, and by what, relative to its largest number."""
    assert found.weights.keys() == expected.weights.keys()
    sizes = {
        name: float(np.abs(found.weights[name] - value).max() / max(np.abs(value).max(), 1e-3))
        for name, value in expected.weights.items()
    }
    worst = max(sizes, key=lambda name: sizes[name])
    return worst, sizes[worst]


def assert_bit_for_bit(found: Run, expected: Run, what: object = "") -> None:
    """Curves, weights and the optimizer's state."""
    assert found.rows == expected.rows, what
    assert found.files.keys() == expected.files.keys(), what
    for name, content in expected.files.items():
        assert found.files[name] == content, f"{what}: {name}"
