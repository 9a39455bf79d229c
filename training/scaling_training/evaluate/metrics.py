"""What an evaluation says of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaling_training.evaluate.counts import Counts


@dataclass(frozen=True, slots=True)
class Metrics:
    """Classification metrics over one split; precision, recall and f1 are means over the classes (macro)."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    loss: float  # mean per sample
    samples: int
    # One entry per class: {"class": name, "samples": n, "precision": …, "recall": …, "f1": …}.
    per_class: tuple[dict[str, float | int | str], ...]
    confusion: tuple[tuple[int, ...], ...]  # row: the true class, column: the predicted one

    def scalars(self) -> dict[str, float]:
        """accuracy, precision, recall, f1 and loss by name."""
        return {name: getattr(self, name) for name in ("accuracy", "precision", "recall", "f1", "loss")}


def metrics_from(counts: Counts, class_names: Sequence[str]) -> Metrics:
    """The metrics of these counts, by torchmetrics.

    It is given one pair of labels for each sample counted, which is the same multiset of pairs that the
    evaluation saw, so nothing is approximated.
    """
    import torch
    from torchmetrics.functional import classification

    confusion = counts.confusion.cpu()
    classes = len(class_names)
    label = torch.arange(classes)
    repeats = confusion.flatten()
    target = label.repeat_interleave(classes).repeat_interleave(repeats)
    predicted = label.repeat(classes).repeat_interleave(repeats)

    def rates(function: object, average: str) -> list[float]:
        assert callable(function)
        values: list[float] = function(predicted, target, num_classes=classes, average=average).reshape(-1).tolist()
        return values

    by_class = zip(
        class_names,
        confusion.sum(dim=1).tolist(),
        rates(classification.multiclass_precision, "none"),
        rates(classification.multiclass_recall, "none"),
        rates(classification.multiclass_f1_score, "none"),
        strict=True,
    )
    samples = len(target)
    return Metrics(
        accuracy=rates(classification.multiclass_accuracy, "micro")[0],
        precision=rates(classification.multiclass_precision, "macro")[0],
        recall=rates(classification.multiclass_recall, "macro")[0],
        f1=rates(classification.multiclass_f1_score, "macro")[0],
        loss=float(counts.loss_sum.item()) / samples,
        samples=samples,
        per_class=tuple(
            {"class": name, "samples": n, "precision": precision, "recall": recall, "f1": f1}
            for name, n, precision, recall, f1 in by_class
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )
