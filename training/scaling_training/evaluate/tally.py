"""Counting: the part of an evaluation that is done on every process.

Everything that the metrics need is a sum over samples. Sums over shards of any size add up to the sums over the
whole, so a distributed evaluation is exact, uneven last batches included; means and rates are taken once, at
the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn

from scaling_training.data.batches import Batch
from scaling_training.evaluate.metrics import Metrics, Objective

BATCH = 256  # samples per process; a matter of memory only


class Tally(Protocol):
    """Sums over the samples seen so far."""

    @property
    def objective(self) -> Objective:
        """Which of its metrics tells the better of two models, unless the user names another."""

    def update(self, output: Any, batch: Batch) -> None:
        """Count a batch and what the model made of it."""

    def tensors(self) -> Sequence[torch.Tensor]:
        """The sums themselves, to be added up over processes in place."""

    def result(self, class_names: Sequence[str]) -> Metrics:
        """The metrics of the sums; ValueError when there was no sample."""


class Measurable(Protocol):
    """What the counting knows of a task."""

    @property
    def model(self) -> nn.Module: ...

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """The model's positional arguments."""

    def tally(self, device: torch.device) -> Tally:
        """A new tally, on this device."""


@torch.no_grad()
def count(
    task: Measurable,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    around: Callable[[Batch], AbstractContextManager[Any]] = nullcontext,
) -> Tally:
    """Run the model over the batches, in evaluation mode. ``around`` is entered for each pass (mixed precision)."""
    tally = task.tally(device)
    with evaluation_mode(task.model):
        for batch in batches:
            with around(batch):
                output = task.model(*task.inputs(batch))
            tally.update(output, batch)
    return tally


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """All modules in evaluation mode; each gets its own mode back, for some may be frozen in it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
