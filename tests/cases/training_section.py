"""Refusals of the section training: what goes beside the optimizer."""

from __future__ import annotations

from tests.cases.case import Case, both, put, training

_TRAINING = "spec.training"

RULES = (
    Case(
        "early stopping by a metric in the wrong direction",
        training(earlyStopping={"metric": "f1", "mode": "min"}),
        f"{_TRAINING}.earlyStopping.mode",
        "this metric gets better as it rises: write max",
        True,
    ),
    Case(
        "early stopping with a direction of no metric",
        training(earlyStopping={"mode": "max"}),
        f"{_TRAINING}.earlyStopping.mode",
        "name the metric as well, or leave mode out",
        True,
    ),
    Case(
        "early stopping by a metric as in the curves",
        training(earlyStopping={"metric": "val accuracy", "mode": "max"}),
        f"{_TRAINING}.earlyStopping.metric",
        "a metric's name",
        True,
    ),
    Case(
        "early stopping by a metric that classification has not",
        training(earlyStopping={"metric": "auc", "mode": "max"}),
        f"{_TRAINING}.earlyStopping.metric",
        "write accuracy, precision, recall, f1, loss, nll, top5Accuracy or calibrationError",
        True,
    ),
    Case(
        "a compiled model that computes activations again",
        training(compile=True, activationCheckpointing=True),
        f"{_TRAINING}.compile",
        "do not go together",
        True,
    ),
    Case(
        "more micro-batches than samples",
        training(batchSize=8, accumulation=9),
        f"{_TRAINING}.accumulation",
        "divides a batch of 8 samples into more pieces than it has samples",
        True,
    ),
)

BOUNDS = (
    Case("no micro-batch", training(accumulation=0), f"{_TRAINING}.accumulation", "must be at least 1"),
    Case("an unknown precision", training(precision="fp8"), f"{_TRAINING}.precision", "fp32"),
    Case("labels that say nothing", training(labelSmoothing=1), f"{_TRAINING}.labelSmoothing", "must be below 1"),
    Case("a norm of 0", training(clipNorm=0), f"{_TRAINING}.clipNorm", "must be above 0"),
    Case("an average that keeps all", training(ema={"decay": 1}), f"{_TRAINING}.ema.decay", "must be below 1"),
    Case("a number for a switch", training(compile=1), f"{_TRAINING}.compile", "true or false"),
    Case(
        "no patience",
        training(earlyStopping={"patience": 0}),
        f"{_TRAINING}.earlyStopping.patience",
        "must be at least 1",
    ),
)

ACCEPTED = (
    (
        "early stopping by a metric of a factory's task",
        both(
            training(earlyStopping={"metric": "wordErrorRate", "mode": "min"}),
            put("spec.model", {"factory": "speech:task"}),
        ),
    ),
    ("a sample in each micro-batch", training(batchSize=8, accumulation=8)),
    ("averaged weights", training(ema={"decay": 0.99})),
    ("early stopping with all defaults", training(earlyStopping={})),
    ("early stopping by f1", training(earlyStopping={"metric": "f1", "mode": "max", "patience": 3})),
    ("half precision, clipped, in micro-batches", training(precision="bf16", clipNorm=1, accumulation=4)),
)
