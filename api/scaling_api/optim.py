"""How the weights are updated: the rule, its rate over time, their average, and when it is enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from scaling_api.base import Model, Rule
from scaling_api.constraints import Pattern
from scaling_api.metrics import CLASSIFICATION, MODES, Mode


def _only_for(field: str, names: tuple[str, ...], kind: str) -> Rule:
    """The optional ``field`` belongs to these records; ``kind`` is what the records are."""
    last = f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]
    listed = ", ".join(f"'{name}'" for name in names)
    return Rule(
        f"!has(self.{field}) || self.name in [{listed}]",
        _holds_for(field, names),
        f"{field} belongs to {kind} {last}; remove it or choose another {kind}",
        field=field,
    )


def _holds_for(field: str, names: tuple[str, ...]) -> Callable[[Any], bool]:
    attribute = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in field)
    return lambda self: getattr(self, attribute) is None or self.name in names


_Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSpec(Model):
    """The update rule."""

    name: Literal["gradient-descent", "sgd", "adagrad", "rmsprop", "adam", "adamw", "lars", "lamb"] = Field(
        "adam",
        description="Which optimizer. gradient-descent takes the whole training split for each step; the others "
        "take batchSize samples.",
    )
    learning_rate: Annotated[float, Field(gt=0, le=100)] = Field(
        1e-3, description="Learning rate; under a schedule its peak."
    )
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0,
        description="L2 penalty (gradient-descent, sgd, adagrad, rmsprop, adam, lars) or decoupled decay "
        "(adamw, lamb).",
    )
    momentum: _Decay | None = Field(
        None, description="Momentum of sgd and rmsprop (0 when absent) and of lars (0.9 when absent)."
    )
    nesterov: bool | None = Field(None, description="Let sgd look ahead by its momentum (Nesterov); needs momentum.")
    beta1: _Decay | None = Field(
        None, description="adam, adamw, lamb: decay of the average of the gradients; 0.9 when absent."
    )
    beta2: _Decay | None = Field(
        None,
        description="adam, adamw, lamb, rmsprop: decay of the average of the squared gradients; 0.999 when absent, "
        "0.99 for rmsprop.",
    )
    epsilon: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="adagrad, rmsprop, adam, adamw, lamb: added to the root in the denominator; when absent 1e-10 "
        "for adagrad, 1e-6 for lamb, 1e-8 for the others.",
    )
    trust_coefficient: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="lars: a layer's update is at most about this share of its weights; 0.001 when absent."
    )
    exclude_biases: bool | None = Field(
        None,
        description="lars, lamb: leave parameters of one dimension (biases, norms) without weight decay and layer-wise "
        "adaptation; true when absent.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.momentum) || self.name in ['sgd', 'rmsprop', 'lars']",
            lambda self: self.momentum is None or self.name in ("sgd", "rmsprop", "lars"),
            "momentum {momentum} belongs to optimizer sgd, rmsprop or lars, not to {name}; remove it or choose "
            "another optimizer",
            field="momentum",
        ),
        Rule(
            "!has(self.nesterov) || !self.nesterov || (self.name == 'sgd' && has(self.momentum) && "
            "self.momentum > 0.0)",
            lambda self: not self.nesterov or (self.name == "sgd" and bool(self.momentum)),
            "nesterov looks ahead by the momentum of sgd: it needs optimizer sgd and a momentum above 0 (0.9 is usual)",
            field="nesterov",
        ),
        _only_for("beta1", ("adam", "adamw", "lamb"), "optimizer"),
        _only_for("beta2", ("adam", "adamw", "lamb", "rmsprop"), "optimizer"),
        _only_for("epsilon", ("adagrad", "rmsprop", "adam", "adamw", "lamb"), "optimizer"),
        _only_for("trustCoefficient", ("lars",), "optimizer"),
        _only_for("excludeBiases", ("lars", "lamb"), "optimizer"),
    )


class ScheduleSpec(Model):
    """The learning rate over the steps of the run."""

    name: Literal["constant", "step", "cosine", "one-cycle", "plateau"] = Field(
        "constant",
        description="constant; step: times factor at each milestone or every everyEpochs; cosine: half a cosine down "
        "to floor; one-cycle: cosine up to the peak, then down to almost 0; plateau: times factor when the validation "
        "loss has stopped falling.",
    )
    warmup_fraction: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.0,
        description="Share of all steps spent rising: by a cosine for one-cycle, linearly for the others.",
    )
    milestones: Annotated[list[Annotated[int, Field(ge=1, le=100_000)]], Field(min_length=1, max_length=100)] | None = (
        Field(None, description="step: the rate drops after these epochs.")
    )
    every_epochs: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="step: the rate drops after every so many epochs."
    )
    factor: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="step, plateau: what the rate is multiplied by at a drop; 0.1 when absent."
    )
    floor: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None,
        description="cosine, plateau: share of the peak rate where the fall ends; 0 when absent.",
    )
    patience: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None,
        description="plateau: so many epochs in a row without a better validation loss make a drop; 5 when absent.",
    )
    threshold: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None,
        description="plateau: a loss counts as better when it is lower than the best by more than this share; "
        "0.0001 when absent.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.name != 'one-cycle' || self.warmupFraction > 0.0",
            lambda self: self.name != "one-cycle" or self.warmup_fraction > 0,
            "schedule one-cycle rises before it falls: warmupFraction must be above 0 (0.3 is usual), it is "
            "{warmupFraction}",
            field="warmupFraction",
        ),
        Rule(
            "self.name != 'step' || has(self.milestones) != has(self.everyEpochs)",
            lambda self: self.name != "step" or (self.milestones is None) != (self.every_epochs is None),
            "schedule step needs exactly one of milestones (the epochs after which the rate drops) and everyEpochs",
            field="",
        ),
        _only_for("milestones", ("step",), "schedule"),
        _only_for("everyEpochs", ("step",), "schedule"),
        _only_for("factor", ("step", "plateau"), "schedule"),
        _only_for("floor", ("cosine", "plateau"), "schedule"),
        _only_for("patience", ("plateau",), "schedule"),
        _only_for("threshold", ("plateau",), "schedule"),
    )


class EmaSpec(Model):
    """An exponential moving average of the weights, which is evaluated and kept in place of the weights themselves."""

    decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.999, description="Share of the average that each step keeps: it looks back about 1 / (1 - decay) steps."
    )


# What the evaluation of classification measures; top5Accuracy where there are more than five classes.
CLASSIFICATION_METRICS = tuple(CLASSIFICATION)

_METRIC = Pattern(r"[a-z][a-zA-Z0-9]*", "a metric's name: write it as in the curves without val, as accuracy or f1")


def _direction(mode: str) -> Rule:
    """Metrics that everybody knows get better in one way only."""
    names = [name for name, known in MODES.items() if known == mode]
    moves = {"max": "rises", "min": "falls"}[mode]
    return Rule(
        f"!has(self.metric) || !has(self.mode) || !(self.metric in {names}) || self.mode == '{mode}'",
        lambda self: self.metric not in names or self.mode in (None, mode),
        f"this metric gets better as it {moves}: write {mode}, or leave mode out",
        field="mode",
    )


class EarlyStopping(Model):
    """Ending the training when a validation metric has stopped getting better."""

    metric: Annotated[str, Field(max_length=40), _METRIC] | None = Field(
        None,
        description="Which metric of the validation, as accuracy, f1 or loss; when absent the one that the task names, "
        "accuracy for classification. The best checkpoint is chosen by it too.",
    )
    mode: Mode | None = Field(
        None,
        description="Whether the metric should rise or fall. Known of the metrics that are described in "
        "docs/evaluation.md and of the one that the task names; needed for others.",
    )
    patience: Annotated[int, Field(ge=1, le=100_000)] = Field(
        5, description="So many epochs in a row without a better value end the training."
    )
    min_delta: Annotated[float, Field(ge=0, le=1000)] = Field(
        0.0, description="A value counts as better when it beats the best by more than this."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.mode) || has(self.metric)",
            lambda self: self.mode is None or self.metric is not None,
            "mode says whether a metric should rise (max) or fall (min): name the metric as well, or leave mode out",
            field="mode",
        ),
        *(_direction(mode) for mode in ("max", "min")),
    )
