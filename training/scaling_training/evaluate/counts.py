"""Counting: the part of an evaluation that is done on every process.

Everything that the metrics need is a sum over samples: of losses, and how often each true class was taken for
each class. Sums over shards of any size add up to the sums over the whole, so a distributed evaluation is
exact; means and rates are taken once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from scaling_training.data.batches import Batch
from scaling_training.models.task import ClassificationTask


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over samples."""

    confusion: torch.Tensor  # int64; row: the true class, column: the predicted one
    loss_sum: torch.Tensor  # float64, one element


@torch.no_grad()
def count(task: ClassificationTask, batches: Iterable[Batch], *, device: torch.device) -> Counts:
    """Run the model over the batches, in evaluation mode; its mode is put back afterwards."""
    classes = task.classes
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    loss_sum = torch.zeros(1, dtype=torch.float64, device=device)
    was_training = task.model.training
    task.model.eval()
    try:
        for batch in batches:
            output = task.model(*task.inputs(batch))
            loss_sum += task.loss_sum(output, batch)
            pairs = task.targets(batch) * classes + task.predictions(output)
            confusion += torch.bincount(pairs, minlength=classes * classes)
    finally:
        task.model.train(was_training)
    return Counts(confusion.reshape(classes, classes), loss_sum)
