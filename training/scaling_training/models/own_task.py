"""Looking at what only a task of the user's own can have wrong: its loss, which must be a sum, and its tally."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from scaling_training.data.batches import Batch
from scaling_training.errors import UserError
from scaling_training.evaluate.classification import ClassificationTally
from scaling_training.evaluate.metrics import Metrics, Objective
from scaling_training.evaluate.multilabel import MultiLabelTally
from scaling_training.evaluate.regression import RegressionTally
from scaling_training.factory import place_of_function, told
from scaling_training.models.task import Task

log = logging.getLogger("scaling_training.models")

# Loss of a batch against those of its samples: what float32 leaves of it, with another order of additions.
_TOLERANCE = 1e-3
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,49}")
_MOST_METRICS = 60  # that a status has room for
_PARTS = ("update", "tensors", "result")


def check_sum(task: Task, batch: Batch, loss: torch.Tensor, field: str, modules: Iterable[str]) -> None:
    """UserError when ``loss``, that of the batch, is the mean of its samples' losses. The model is in evaluation mode.

    Another loss may be no sum either (one that compares the samples of a batch, say), and is the user's to answer for.
    """
    losses = []
    for index in range(len(batch)):
        one = slice(index, index + 1)
        part = Batch(batch.inputs[one], batch.targets[one], batch.keys[one])
        try:
            losses.append(float(task.loss_sum(task.model(*task.inputs(part)), part).item()))
        except Exception:
            return  # it takes no single sample, which an evaluation may never ask of it
    whole, total = float(loss.item()), sum(losses)
    near = _TOLERANCE * abs(total)
    if len(losses) > 1 and abs(whole - total / len(losses)) <= near < abs(whole - total):
        each = " and ".join(f"{value:.4g}" for value in losses)
        raise UserError(
            f"{field}: loss_sum returned the mean of the samples' losses ({whole:.4g} for {each}), and their sum is "
            "needed: only the loop knows over how many to take the mean; write reduction='sum'"
            f"{_at(task.loss_sum, modules)}"
        )


def check_tally(
    task: Task, output: Any, batch: Batch, names: Sequence[str], field: str, modules: Iterable[str]
) -> frozenset[str] | None:
    """The names of the metrics, None when they are not known; UserError when it is not as training needs it.

    It counts one batch, as an evaluation would. Tallies of this library's own need no look. ``names`` are those of the
    classes.
    """
    modules = list(modules)
    try:
        tally = task.tally(batch.inputs.device)
        if isinstance(tally, (ClassificationTally, MultiLabelTally, RegressionTally)):
            return None
        missing = [part for part in _PARTS if not callable(getattr(tally, part, None))]
        if missing or not isinstance(getattr(tally, "objective", None), Objective):
            lacks = " and ".join(missing) or "an objective (scaling_training.evaluate.Objective)"
            raise UserError(f"{field}: the tally ({type(tally).__name__}) lacks {lacks}{_at(task.tally, modules)}")
        tally.update(output, batch)
        found = _names(tally, names, field, _at(tally.result, modules))
        _check_sums(tally, field, _at(tally.tensors, modules))
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{field}: the task's tally cannot count: it {told(error, modules=modules)}") from error
    return found


def _names(tally: Any, class_names: Sequence[str], field: str, where: str) -> frozenset[str] | None:
    try:
        metrics = tally.result(class_names)
    except (ArithmeticError, ValueError) as error:
        # A metric may need more than a few samples of an untrained model: one of each class, or a hit.
        log.info("%s: the tally has no result of a few samples yet: %s%s", field, error, where)
        return None
    if not isinstance(metrics, Metrics):
        raise UserError(
            f"{field}: the tally's result is a {type(metrics).__name__}; it must be scaling_training.evaluate.Metrics"
            f"{where}"
        )
    try:
        values = metrics.scalars()
    except (TypeError, ValueError) as error:
        raise UserError(f"{field}: a metric of the tally's result is no number ({error}){where}") from error
    odd = next((name for name in values if not _NAME.fullmatch(name)), None)
    if odd is not None:
        raise UserError(
            f"{field}: {odd!r:.60} is not a metric's name: write letters, digits, - and _, up to 50 and a letter "
            f"first, as in wordErrorRate{where}"
        )
    if len(values) > _MOST_METRICS:
        raise UserError(
            f"{field}: the tally's result has {len(values)} metrics, at most {_MOST_METRICS} can be shown; put the "
            f"others into tables{where}"
        )
    for name in ("loss", tally.objective.metric):
        if name not in values:
            why = "which early stopping and curves need" if name == "loss" else "which is the objective"
            raise UserError(f"{field}: the tally's result has no metric {name}, {why}; add it to values{where}")
    return frozenset(values)


def _check_sums(tally: Any, field: str, where: str) -> None:
    tensors = list(tally.tensors())
    if not tensors or not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        raise UserError(f"{field}: the tally's tensors must be its sums, as torch tensors{where}")
    for tensor in tensors:
        tensor.zero_()
    if any(bool(tensor.any()) for tensor in tally.tensors()):
        raise UserError(
            f"{field}: the tally's tensors are copies: what other processes counted is added to them in place, so "
            f"return the tensors themselves{where}"
        )


def _at(function: Any, modules: Iterable[str]) -> str:
    place = place_of_function(function, modules=modules)
    return f", at {place}" if place else ""
