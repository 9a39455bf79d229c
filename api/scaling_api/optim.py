"""How the weights are updated: the rule, and its rate over time."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scaling_api.base import Model, Rule


class OptimizerSpec(Model):
    """The update rule."""

    name: Literal["sgd", "adam", "adamw"] = Field("adam", description="Which optimizer.")
    learning_rate: Annotated[float, Field(gt=0, le=100)] = Field(
        1e-3, description="Learning rate; under a schedule its peak."
    )
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0, description="L2 penalty (sgd, adam) or decoupled decay (adamw)."
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="Momentum of sgd; 0 when absent.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.momentum) || self.name == 'sgd'",
            lambda self: self.momentum is None or self.name == "sgd",
            "momentum {momentum} belongs to optimizer sgd, not to {name}; remove it or choose sgd",
            field="momentum",
        ),
    )


class ScheduleSpec(Model):
    """The learning rate over the steps of the run."""

    name: Literal["constant", "cosine", "one-cycle"] = Field(
        "constant",
        description="constant; cosine: half a cosine down to 0; one-cycle: cosine up to the peak, then down to "
        "almost 0.",
    )
    warmup_fraction: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.0,
        description="Share of all steps spent rising: linearly for constant and cosine, by a cosine for one-cycle.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.name != 'one-cycle' || self.warmupFraction > 0.0",
            lambda self: self.name != "one-cycle" or self.warmup_fraction > 0,
            "schedule one-cycle rises before it falls: warmupFraction must be above 0 (0.3 is usual), it is "
            "{warmupFraction}",
            field="warmupFraction",
        ),
    )
