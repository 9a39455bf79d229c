"""The factor on the loss that keeps fp16 gradients from underflowing.

Gradients of half-precision activations vanish below 6e-8, so the loss is multiplied before the backward pass and
the gradients are divided after it. The factor is found on the way: it is halved when the gradient's norm
overflows, and that step is left out; it is doubled after 2,000 steps that fitted (Micikevicius et al. 2018, the
numbers of torch's GradScaler). Unlike GradScaler the verdict is the norm over all processes, which is equal on
every rank also where parameters are sharded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

_START = 2.0**16
_PATIENCE = 2000
_LEAST = 2.0**-14


@dataclass(slots=True)
class LossScale:
    """1 throughout, unless ``watches``."""

    watches: bool
    factor: float = 1.0
    fitted: int = 0  # steps in a row
    skipped: int = 0  # steps since training began that did not fit

    @classmethod
    def of(cls, precision: Literal["fp32", "bf16", "fp16"]) -> LossScale:
        """Only fp16 needs one: bf16 has the range of fp32."""
        return cls(True, _START) if precision == "fp16" else cls(False)

    @property
    def exhausted(self) -> bool:
        """Whether the factor can fall no further: what does not fit now is no matter of scale."""
        return not self.watches or self.factor <= _LEAST

    def accept(self, norm: float) -> bool:
        """Whether a step with this norm of the unscaled gradient may be taken; adapts the factor."""
        if not self.watches:
            return True
        if not math.isfinite(norm):
            self.factor, self.fitted = max(self.factor / 2, _LEAST), 0
            self.skipped += 1
            return False
        self.fitted += 1
        if self.fitted == _PATIENCE:
            self.factor, self.fitted = self.factor * 2, 0
        return True

    def state(self) -> dict[str, float]:
        """What a checkpoint holds of it; empty when there is nothing to hold."""
        return {"factor": self.factor, "fitted": self.fitted, "skipped": self.skipped} if self.watches else {}

    def restore(self, state: Mapping[str, float]) -> None:
        """The inverse of `state`."""
        if self.watches and state:
            self.factor, self.fitted = state["factor"], int(state["fitted"])
            # Checkpoints of earlier versions do not say.
            self.skipped = int(state.get("skipped", 0))
