"""Metrics by name: which way each gets better, and how name and value are written for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Mode = Literal["max", "min"]

# Of more classes than so many, top5Accuracy is measured as well.
TOP_K = 5
# What the built-in tasks measure (docs/evaluation.md). A task of the user's may measure anything else besides.
CLASSIFICATION: Mapping[str, Mode] = {
    "accuracy": "max",
    "precision": "max",
    "recall": "max",
    "f1": "max",
    "loss": "min",
    "nll": "min",
    "top5Accuracy": "max",
    "calibrationError": "min",
}
MULTI_LABEL: Mapping[str, Mode] = {
    "f1": "max",
    "precision": "max",
    "recall": "max",
    "exactMatch": "max",
    "loss": "min",
    "nll": "min",
}
REGRESSION: Mapping[str, Mode] = {"mse": "min", "mae": "min", "r2": "max", "loss": "min"}
MODES: Mapping[str, Mode] = {**CLASSIFICATION, **MULTI_LABEL, **REGRESSION}

# What they are called where it is not their name.
_LABELS = {
    "f1": "F1",
    "top5Accuracy": "top-5 accuracy",
    "calibrationError": "calibration error",
    "exactMatch": "exact match",
}


def label(metric: str) -> str:
    """What a metric is called in tables and curves."""
    return _LABELS.get(metric, metric)


def shown(value: float) -> str:
    """A value to four decimals; to four digits where those would say nothing, or too much."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"
