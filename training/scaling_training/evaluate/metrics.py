"""What an evaluation says of a model."""

from __future__ import annotations

from dataclasses import dataclass


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
