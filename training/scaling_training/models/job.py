"""A job's task: the model of the spec for the classes and inputs of its data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from scaling_api.spec import ScalingJobSpec
from scaling_training.models.registry import build_task

if TYPE_CHECKING:
    import torch

    from scaling_training.data import Dataset
    from scaling_training.models.task import Task


def job_task(
    spec: ScalingJobSpec,
    dataset: Dataset,
    *,
    device: torch.device,
    initial_weights: bool = True,
    note: Callable[[str], None] | None = None,
) -> Task:
    """The task on its device, in training mode; the same loss wherever it is measured.

    ``initial_weights=False`` leaves ``spec.model.weights`` alone, for a caller that loads a checkpoint; ``note``
    and UserError as for `build_task`.
    """
    import torch

    weights = dataset.class_weights()
    task = build_task(
        spec.model,
        input_shape=dataset.input_shape,
        classes=dataset.outputs,
        kind=dataset.kind,
        class_names=dataset.class_names,
        seed=spec.training.seed,
        label_smoothing=spec.training.label_smoothing,
        class_weights=torch.tensor(weights, device=device) if weights is not None else None,
        initial_weights=initial_weights,
        note=note,
    )
    task.model.to(device).train()
    return task
