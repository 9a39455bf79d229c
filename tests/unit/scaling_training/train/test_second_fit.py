"""A fit gives the same, bit for bit, whether it is the first of its process or comes after another one."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scaling_api.spec import ScalingJobSpec
from scaling_training.data.batches import Batch
from scaling_training.models import small_cnn
from scaling_training.models.task import ClassificationTask
from scaling_training.world import World
from tests.unit.scaling_training.train.looped import Run, a_run, assert_bit_for_bit, run
from tests.unit.scaling_training.worlds import in_world


class Noisy(ClassificationTask):
    """Draws random numbers that nobody hands around, as user code does."""

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        images = batch.inputs
        if self.model.training:
            images = images + 0.1 * torch.rand_like(images) + 0.1 * random.random() + float(np.random.rand()) * 0.1
        return (images,)


def noisy(input_shape: tuple[int, int, int], classes: int, label_smoothing: float) -> ClassificationTask:
    """The factory of the fit that is looked at."""
    model = small_cnn.build(a_run("small-cnn").model.model_copy(update={"width": 0.125}), input_shape, classes)
    return Noisy(model, classes, label_smoothing, head="15")


class Meddling(ClassificationTask):
    """Changes what belongs to the whole process."""

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("medium")
        torch.set_default_dtype(torch.float64)
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
        return (batch.inputs + float(np.random.rand()) + random.random() + torch.rand(()).float(),)


def meddling(input_shape: tuple[int, int, int], classes: int, label_smoothing: float) -> ClassificationTask:
    """The factory of the fit before it."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(input_shape)), classes))
    return Meddling(model, classes, label_smoothing, head="1")


def a_fit(factory: Any, **training: Any) -> ScalingJobSpec:
    spec = a_run("linear", bits=32, **training)
    model = type(spec.model).model_validate({"factory": f"{__name__}:{factory.__name__}"})
    return spec.model_copy(update={"model": model})


def settings() -> dict[str, object]:
    """What of the process a fit could leave otherwise."""
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "dtype": torch.get_default_dtype(),
        "torch's numbers": torch.get_rng_state().tolist(),
        "numpy's numbers": np.random.get_state()[1].tolist(),  # type: ignore[index]
        "python's numbers": random.getstate(),
        "cublas": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


def after_another(world: World, root: str, another: bool) -> tuple[Run | None, dict[str, object], dict[str, object]]:
    """The fit, and the process before and after."""
    torch.set_num_threads(2)
    before = settings()
    if another:
        run(world, a_fit(meddling, deterministic=True, seed=3), f"{root}/another")
    return run(world, a_fit(noisy), f"{root}/fit"), before, settings()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fit_alone_and_after_another_in_the_same_process_are_equal(tmp_path: Path, workers: int) -> None:
    alone = in_world(workers, after_another, str(tmp_path / "alone"), False)
    second = in_world(workers, after_another, str(tmp_path / "second"), True)
    assert_bit_for_bit(second[0][0], alone[0][0])
    for _, before, after in (*alone, *second):
        assert after == before
