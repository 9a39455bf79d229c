"""What an evaluation says of a model, whatever its task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from scaling_api.metrics import Mode


@dataclass(frozen=True, slots=True)
class Objective:
    """Which metric tells the better of two models, and which way."""

    metric: str
    mode: Mode

    def improvement(self, value: float, over: float) -> float:
        """By how much ``value`` is better; below 0 when it is worse."""
        return value - over if self.mode == "max" else over - value


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of one split."""

    values: Mapping[str, float]  # by name, camelCase; loss, the mean per sample, is always among them
    samples: int
    objective: Objective
    # What is more than a number, as JSON: for classification averages, per_class, confusion, calibration.
    tables: Mapping[str, Any] = field(default_factory=dict)
    skipped: int = 0  # samples that could not be read, and are not among ``samples``

    def scalars(self) -> dict[str, float]:
        """The numbers by name."""
        return {name: float(value) for name, value in self.values.items()}

    def to_dict(self) -> dict[str, Any]:
        """All of it, the numbers and tables by their names side by side, as JSON, which has null for no number."""
        return {
            **{name: value if math.isfinite(value) else None for name, value in self.scalars().items()},
            "objective": asdict(self.objective),
            "samples": self.samples,
            "skipped": self.skipped,
            **self.tables,
        }


def validation_key(metric: str) -> str:
    """What a metric of the validation split is called in the rows of the curves: accuracy is valAccuracy."""
    return f"val{metric[:1].upper()}{metric[1:]}"
