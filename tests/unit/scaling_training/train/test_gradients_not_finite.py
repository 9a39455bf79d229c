"""A gradient that is no number, under a loss that is one, reaches neither the weights of others nor a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.numpy import load

from scaling_api.spec import ScalingJobSpec
from scaling_training.checkpoint import CheckpointRef
from scaling_training.checkpoint.catalog import newest_committed
from scaling_training.checkpoint.weights import weights_file
from scaling_training.data.batches import Batch
from scaling_training.errors import UserError
from scaling_training.models import small_cnn
from scaling_training.models.task import ClassificationTask
from scaling_training.storage import Storage
from scaling_training.train import World
from scaling_training.train.async_loop import train_async
from scaling_training.train.loop import train
from tests.unit.scaling_training.train.looped import STEPS_PER_EPOCH, a_run
from tests.unit.scaling_training.update.served import a_local_server
from tests.unit.scaling_training.worlds import in_world, started

BAD_STEP = STEPS_PER_EPOCH + 2
LOCAL = {"mode": "local", "steps": 2}


class Rooted(ClassificationTask):
    """Adds to the loss of one step a root of zero, which is 0 and has no derivative; on the last rank alone."""

    steps = count(0)  # of this process; the check of the factory before training is number 0

    def loss_sum(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        loss = ClassificationTask.loss_sum(self, output, batch)
        last = not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1
        if output.requires_grad and next(self.steps) == BAD_STEP and last:
            return loss + torch.sqrt(output * 0).sum()
        return loss


def task(input_shape: tuple[int, int, int], classes: int, label_smoothing: float) -> ClassificationTask:
    """The factory of the specs."""
    model = small_cnn.build(a_run("small-cnn").model.model_copy(update={"width": 0.125}), input_shape, classes)
    return Rooted(model, classes, label_smoothing, head="15")


def a_spec(**training: Any) -> ScalingJobSpec:
    model = {"factory": f"{__name__}:{task.__name__}", "arguments": {}}
    return a_run("", model=model, **{"checkpoint": {"everySteps": 1, "keep": 9}, **training})


def newest(root: str) -> CheckpointRef:
    """What is committed."""
    ref = newest_committed(Storage(root), "key")
    assert ref is not None
    return ref


def said_with_slow_storage(world: World, spec: ScalingJobSpec, root: str) -> tuple[str, int]:
    """And the newest checkpoint at that moment."""
    write = Storage.write

    def write_slowly(self: Storage, name: str, data: bytes) -> None:
        if f"step-{BAD_STEP - 1:08d}" in name:
            time.sleep(1.0)
        write(self, name, data)

    with patch.object(Storage, "write", write_slowly):
        return said(world, spec, root), newest(root).step


def said(world: World, spec: ScalingJobSpec, root: str) -> str:
    how: dict[str, Any] = {}
    if spec.training.update.mode == "async":
        how["server"] = a_local_server(spec)
    try:
        (train_async if how else train)(
            spec,
            storage=Storage(root),
            attempt=1,
            world=world,
            observer=lambda progress: None,
            stop_requested=lambda: False,
            key="key",
            resume=None,
            **how,
        )
    except UserError as error:
        return str(error)
    return "it trained on"


@pytest.mark.parametrize(
    ("size", "training"),
    [
        (1, {}),
        (1, {"clipNorm": 1.0}),
        (2, {}),
        (2, {"parallelism": {"fsdp": 2}}),
        (2, {"parallelism": {"tensor": 2}}),
        (2, {"update": LOCAL}),
        (1, {"update": {"mode": "async"}, "checkpoint": {"everySteps": 1}}),
        (1, {"update": {"mode": "async"}, "clipNorm": 1.0}),
    ],
    ids=["alone", "clipped", "data", "fsdp", "tensor", "local", "async", "async, clipped"],
)
def test_it_ends_the_run_on_every_rank_before_it_is_saved(
    tmp_path: Path, size: int, training: Mapping[str, Any]
) -> None:
    spec, root = a_spec(**training), str(tmp_path)
    for sentence in in_world(size, said, spec, root):
        assert "training gradient's norm became nan" in sentence
        assert "lower training.optimizer.learningRate" in sentence

    ref = newest(root)
    assert ref.step == (BAD_STEP - 2 if "update" in training and training["update"] == LOCAL else BAD_STEP - 1)
    storage = Storage(root)
    assert all(np.isfinite(value).all() for value in load(weights_file(storage, ref)).values())


@pytest.mark.parametrize("training", [{}, {"clipNorm": 1.0}], ids=["watched", "clipped"])
def test_no_rank_ends_before_the_save_in_flight_is_committed(tmp_path: Path, training: Mapping[str, Any]) -> None:
    for sentence, saved in in_world(2, said_with_slow_storage, a_spec(**training), str(tmp_path)):
        assert saved == BAD_STEP - 1, "the first that ends takes the others along"
        assert f"step-{BAD_STEP - 1:08d} is kept" in sentence


def test_a_rank_that_alone_knows_of_its_gradient_waits_for_nobody(tmp_path: Path) -> None:
    with started(2, said, a_spec(update=LOCAL, clipNorm=1.0), str(tmp_path)) as running:
        assert running.pipes[1].poll(150.0)
        error, sentence = running.pipes[1].recv()
    assert error is None
    assert "training gradient's norm became nan" in sentence
