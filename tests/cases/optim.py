"""Refusals of the sections optimizer and schedule, and of those that go beside them in training."""

from __future__ import annotations

from tests.cases.case import Case, training

_OPTIMIZER = "spec.training.optimizer"
_SCHEDULE = "spec.training.schedule"

RULES = (
    Case(
        "nesterov without momentum",
        training(optimizer={"name": "sgd", "nesterov": True}),
        f"{_OPTIMIZER}.nesterov",
        "it needs optimizer sgd and a momentum above 0",
        True,
    ),
    Case(
        "nesterov with a momentum of 0",
        training(optimizer={"name": "sgd", "nesterov": True, "momentum": 0}),
        f"{_OPTIMIZER}.nesterov",
        "it needs optimizer sgd and a momentum above 0",
        True,
    ),
    Case(
        "nesterov of rmsprop",
        training(optimizer={"name": "rmsprop", "nesterov": True, "momentum": 0.9}),
        f"{_OPTIMIZER}.nesterov",
        "it needs optimizer sgd",
        True,
    ),
    Case(
        "momentum of gradient descent",
        training(optimizer={"name": "gradient-descent", "momentum": 0.9}),
        f"{_OPTIMIZER}.momentum",
        "belongs to optimizer sgd, rmsprop or lars, not to gradient-descent",
        True,
    ),
    Case(
        "beta1 of sgd",
        training(optimizer={"name": "sgd", "beta1": 0.9}),
        f"{_OPTIMIZER}.beta1",
        "beta1 belongs to optimizer adam, adamw or lamb; remove it",
        True,
    ),
    Case(
        "beta2 of adagrad",
        training(optimizer={"name": "adagrad", "beta2": 0.9}),
        f"{_OPTIMIZER}.beta2",
        "beta2 belongs to optimizer adam, adamw, lamb or rmsprop",
        True,
    ),
    Case(
        "epsilon of lars",
        training(optimizer={"name": "lars", "epsilon": 1e-8}),
        f"{_OPTIMIZER}.epsilon",
        "epsilon belongs to optimizer adagrad, rmsprop, adam, adamw or lamb",
        True,
    ),
    Case(
        "trustCoefficient of lamb",
        training(optimizer={"name": "lamb", "trustCoefficient": 0.01}),
        f"{_OPTIMIZER}.trustCoefficient",
        "trustCoefficient belongs to optimizer lars",
        True,
    ),
    Case(
        "excludeBiases of adam",
        training(optimizer={"name": "adam", "excludeBiases": False}),
        f"{_OPTIMIZER}.excludeBiases",
        "excludeBiases belongs to optimizer lars or lamb",
        True,
    ),
    Case(
        "step without milestones",
        training(schedule={"name": "step"}),
        _SCHEDULE,
        "schedule step needs exactly one of milestones",
        True,
    ),
    Case(
        "step with milestones and everyEpochs",
        training(schedule={"name": "step", "milestones": [2], "everyEpochs": 2}),
        _SCHEDULE,
        "schedule step needs exactly one of milestones",
        True,
    ),
    Case(
        "milestones of cosine",
        training(schedule={"name": "cosine", "milestones": [2]}),
        f"{_SCHEDULE}.milestones",
        "milestones belongs to schedule step",
        True,
    ),
    Case(
        "everyEpochs of plateau",
        training(schedule={"name": "plateau", "everyEpochs": 2}),
        f"{_SCHEDULE}.everyEpochs",
        "everyEpochs belongs to schedule step",
        True,
    ),
    Case(
        "factor of constant",
        training(schedule={"factor": 0.5}),
        f"{_SCHEDULE}.factor",
        "factor belongs to schedule step or plateau",
        True,
    ),
    Case(
        "floor of step",
        training(schedule={"name": "step", "everyEpochs": 1, "floor": 0.1}),
        f"{_SCHEDULE}.floor",
        "floor belongs to schedule cosine or plateau",
        True,
    ),
    Case(
        "patience of cosine",
        training(schedule={"name": "cosine", "patience": 3}),
        f"{_SCHEDULE}.patience",
        "patience belongs to schedule plateau",
        True,
    ),
    Case(
        "threshold of one-cycle",
        training(schedule={"name": "one-cycle", "warmupFraction": 0.3, "threshold": 0.1}),
        f"{_SCHEDULE}.threshold",
        "threshold belongs to schedule plateau",
        True,
    ),
)

BOUNDS = (
    Case("beta1 of 1", training(optimizer={"beta1": 1}), f"{_OPTIMIZER}.beta1", "must be below 1, not 1"),
    Case("epsilon of 0", training(optimizer={"epsilon": 0}), f"{_OPTIMIZER}.epsilon", "must be above 0, not 0"),
    Case(
        "factor of 1",
        training(schedule={"name": "plateau", "factor": 1}),
        f"{_SCHEDULE}.factor",
        "must be below 1, not 1",
    ),
    Case(
        "a milestone before the first epoch",
        training(schedule={"name": "step", "milestones": [0]}),
        f"{_SCHEDULE}.milestones[0]",
        "must be at least 1, not 0",
    ),
    Case(
        "no milestones",
        training(schedule={"name": "step", "milestones": []}),
        f"{_SCHEDULE}.milestones",
        "must have at least 1 item, not 0",
    ),
    Case(
        "a fraction for patience",
        training(schedule={"name": "plateau", "patience": 1.5}),
        f"{_SCHEDULE}.patience",
        "not the number 1.5",
    ),
    Case(
        "text for nesterov",
        training(optimizer={"name": "sgd", "momentum": 0.9, "nesterov": "yes"}),
        f"{_OPTIMIZER}.nesterov",
        "must be true or false",
    ),
)

ACCEPTED = (
    ("full-batch gradient descent", training(optimizer={"name": "gradient-descent", "learningRate": 0.5})),
    ("nesterov with momentum", training(optimizer={"name": "sgd", "momentum": 0.9, "nesterov": True})),
    ("nesterov switched off", training(optimizer={"name": "adam", "nesterov": False})),
    ("adam's constants", training(optimizer={"beta1": 0.8, "beta2": 0.98, "epsilon": 1e-6})),
    ("rmsprop", training(optimizer={"name": "rmsprop", "beta2": 0.9, "momentum": 0.9})),
    ("lars", training(optimizer={"name": "lars", "momentum": 0.9, "trustCoefficient": 0.01, "excludeBiases": False})),
    ("lamb", training(optimizer={"name": "lamb", "weightDecay": 0.01, "excludeBiases": True})),
    ("milestones", training(schedule={"name": "step", "milestones": [1, 2], "factor": 0.5, "warmupFraction": 0.1})),
    ("a drop every epoch", training(schedule={"name": "step", "everyEpochs": 1})),
    ("cosine with a floor", training(schedule={"name": "cosine", "floor": 0.01})),
    ("plateau", training(schedule={"name": "plateau", "patience": 2, "threshold": 0.01, "floor": 0.001})),
)

# Of sections that stand beside optimizer in training.
EARLY_STOPPING_RULES = (
    Case(
        "a loss that should rise",
        training(earlyStopping={"metric": "loss", "mode": "max"}),
        "spec.training.earlyStopping.mode",
        "this metric gets better as it falls: write min",
        True,
    ),
    Case(
        "a metric with a blank",
        training(earlyStopping={"metric": "top 5", "mode": "max"}),
        "spec.training.earlyStopping.metric",
        '"top 5" is not a metric\'s name: write it as in the curves without val',
        True,
    ),
)
EARLY_STOPPING_BOUNDS = (
    Case(
        "a metric's name too long",
        training(earlyStopping={"metric": "a" * 41, "mode": "max"}),
        "spec.training.earlyStopping.metric",
        "must have at most 40 characters, not 41",
    ),
    Case(
        "no patience at all",
        training(earlyStopping={"patience": 0}),
        "spec.training.earlyStopping.patience",
        "must be at least 1, not 0",
    ),
    Case("an average that keeps all", training(ema={"decay": 1}), "spec.training.ema.decay", "must be below 1, not 1"),
)
EARLY_STOPPING_ACCEPTED = (
    ("early stopping", training(earlyStopping={})),
    ("early stopping by a metric whose direction everybody knows", training(earlyStopping={"metric": "loss"})),
    ("early stopping by the loss", training(earlyStopping={"metric": "loss", "mode": "min", "minDelta": 0.01})),
    ("averaged weights", training(ema={})),
)
