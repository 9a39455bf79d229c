"""A task: a model with its loss, how a batch is fed to it and how its output is read.

The loop, the evaluation and the checkpoints know a model only as a task, so that another kind of data needs
another task and no other loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from scaling_training.data.batches import Batch
from scaling_training.evaluate.classification import ClassificationTally
from scaling_training.evaluate.multilabel import MultiLabelTally
from scaling_training.evaluate.regression import RegressionTally
from scaling_training.evaluate.tally import Tally

# What a task of the user's is checked for, besides a model.
METHODS = ("inputs", "loss_sum", "tally")
_HALF = (torch.float16, torch.bfloat16)


class Task(Protocol):
    """What training needs to know of a model."""

    @property
    def model(self) -> nn.Module:
        """The network whose parameters are trained."""

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """The model's positional arguments. The samples are the first dimension of each tensor among them."""

    def loss_sum(self, output: Any, batch: Batch) -> torch.Tensor:
        """The sum of the samples' losses, one element. A sum, because only the loop knows over how many to take
        the mean: it divides by the number of samples in the global batch."""

    def tally(self, device: torch.device) -> Tally:
        """A new tally on this device, of what an evaluation counts."""


@dataclass(frozen=True, slots=True)
class ClassificationTask:
    """One class out of several for each sample; the loss is cross-entropy.

    The model turns ``batch.inputs`` (images, or tokens, or what else it takes) into scores before the softmax,
    [n, classes]. Targets are class numbers (int64 [n]) or shares of the classes (float [n, classes], as mixup
    makes them).

    ``label_smoothing`` e takes e / classes of each target's share for every class alike (Szegedy et al. 2016).

    ``class_weights`` w [classes] multiply the terms of the cross-entropy: a sample of class y counts w[y] times.
    The sum is still divided by the number of samples and not by the sum of their weights, so that a batch's
    gradient does not depend on which classes share it, and any division into shards gives the same. For a loss of
    the usual scale the weights should have mean 1 over the training samples.

    ``head`` is the name of the layer that gives the classes: what is left when the backbone is frozen, and
    what may differ in weights that were trained for other classes. Empty: nobody knows.
    """

    model: nn.Module
    classes: int
    label_smoothing: float = 0.0
    class_weights: torch.Tensor | None = None
    head: str = ""

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """The model's positional arguments."""
        return (batch.inputs,)

    def loss_sum(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The sum of the samples' losses, in float32 at least."""
        scores = _wide(output)
        targets = batch.targets.to(scores.dtype) if batch.targets.is_floating_point() else batch.targets
        weights = None if self.class_weights is None else self.class_weights.to(scores)
        return functional.cross_entropy(
            scores, targets, weight=weights, label_smoothing=self.label_smoothing, reduction="sum"
        )

    def tally(self, device: torch.device) -> ClassificationTally:
        """What an evaluation counts."""
        return ClassificationTally(self.classes, loss_sum=self.loss_sum, device=device)


@dataclass(frozen=True, slots=True)
class MultiLabelTask:
    """Any number of ``labels`` is true of a sample; the loss is binary cross-entropy, the mean over the labels.

    The model turns ``batch.inputs`` into scores before the sigmoid, [n, labels]. Targets are 0 or 1, float [n, labels].
    ``head`` is as for `ClassificationTask`.
    """

    model: nn.Module
    labels: int
    head: str = ""

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """The model's positional arguments."""
        return (batch.inputs,)

    def loss_sum(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The sum of the samples' losses, in float32 at least."""
        scores = _wide(output)
        targets = batch.targets.to(scores.dtype)
        return functional.binary_cross_entropy_with_logits(scores, targets, reduction="sum") / self.labels

    def tally(self, device: torch.device) -> MultiLabelTally:
        """What an evaluation counts."""
        return MultiLabelTally(self.labels, loss_sum=self.loss_sum, device=device)


@dataclass(frozen=True, slots=True)
class RegressionTask:
    """``outputs`` numbers to predict for each sample; the loss is the squared error, the mean over the outputs.

    The model turns ``batch.inputs`` into numbers [n, outputs], or [n] for one; targets are float, of either shape.
    Nothing is scaled: errors are in the unit of the targets. ``head`` is as for `ClassificationTask`.
    """

    model: nn.Module
    outputs: int = 1
    head: str = ""

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """The model's positional arguments."""
        return (batch.inputs,)

    def loss_sum(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The sum of the samples' losses, in float32 at least."""
        # In one shape: [n, 1] less [n] would be all pairs.
        predicted = _wide(output).reshape(len(batch), self.outputs)
        targets = batch.targets.to(predicted.dtype).reshape(len(batch), self.outputs)
        return functional.mse_loss(predicted, targets, reduction="sum") / self.outputs

    def tally(self, device: torch.device) -> RegressionTally:
        """What an evaluation counts."""
        return RegressionTally(self.outputs, loss_sum=self.loss_sum, device=device)


def _wide(output: torch.Tensor) -> torch.Tensor:
    return output.float() if output.dtype in _HALF else output
