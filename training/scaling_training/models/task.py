"""A task: a model with its loss, how a batch is fed to it and how its output is read.

The loop, the evaluation and the checkpoints know a model only as a task, so that another kind of data needs
another task and no other loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from scaling_training.data.batches import Batch
from scaling_training.evaluate.classification import ClassificationTally


@dataclass(frozen=True, slots=True)
class ClassificationTask:
    """One class out of several for each sample; the loss is cross-entropy."""

    model: nn.Module
    classes: int

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """The model's positional arguments."""
        return (batch.inputs,)

    def loss_sum(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The sum of the samples' losses. A sum, because only the loop knows over how many to take the mean."""
        return functional.cross_entropy(output, batch.targets, reduction="sum")

    def predictions(self, output: torch.Tensor) -> torch.Tensor:
        """The class chosen for each sample."""
        return output.argmax(dim=1)

    def targets(self, batch: Batch) -> torch.Tensor:
        """The true class of each sample."""
        return batch.targets

    def tally(self, device: torch.device) -> ClassificationTally:
        """What an evaluation counts."""
        return ClassificationTally(self.classes, loss_sum=self.loss_sum, device=device)
