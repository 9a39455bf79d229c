"""Evaluating a checkpoint on a split, in one process, batch by batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from scaling_api.spec import ScalingJobSpec
from scaling_training.checkpoint import CheckpointRef, DamagedError
from scaling_training.data import Dataset, TestAccess, open_dataset
from scaling_training.errors import UserError
from scaling_training.evaluate.metrics import Metrics
from scaling_training.storage import Storage

_BATCH = 256


def evaluate(
    spec: ScalingJobSpec,
    *,
    storage: Storage,
    checkpoint: CheckpointRef,
    split: Literal["validation", "test"],
    access: TestAccess | None = None,
    device: str = "cpu",
    dataset: Dataset | None = None,
) -> Metrics:
    """Metrics of the checkpoint's model on the split; ``dataset`` is the spec's, where it is open already.

    The test split needs ``access=TestAccess("evaluate")``; without it a PermissionError is raised. A checkpoint
    that is damaged or of another model raises UserError.
    """
    if split == "test" and access is None:
        raise PermissionError("the test split opens only with a TestAccess, which evaluate and report hold")
    import torch

    from scaling_training.checkpoint.weights import load_weights, weights_file
    from scaling_training.evaluate.tally import count
    from scaling_training.models.job import job_task

    dataset = dataset or open_dataset(spec.dataset)
    samples = dataset.open_test(access) if access is not None and split == "test" else dataset.validation
    place = torch.device(device)
    task = job_task(spec, dataset, device=place, initial_weights=False)
    try:
        load_weights(weights_file(storage, checkpoint), task.model)
    except DamagedError as error:
        raise UserError(
            f"checkpoint {checkpoint.folder} cannot be evaluated: {error}; delete it and run the training again"
        ) from error
    feed = dataset.feed(samples, device=place, seed=spec.training.seed)
    tally = count(task, feed.stretch(slice(0, len(samples)), _BATCH), device=place)
    return replace(tally.result(dataset.class_names), skipped=feed.skipped)
