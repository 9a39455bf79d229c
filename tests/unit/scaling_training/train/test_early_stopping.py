from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from scaling_api.optim import EarlyStopping
from scaling_training.errors import UserError
from scaling_training.evaluate import Objective
from scaling_training.train.early_stopping import better, objective_of, should_stop

ACCURACY, LOSS = Objective("accuracy", "max"), Objective("loss", "min")


def stop_after(
    accuracies: Sequence[float], losses: Sequence[float] | None = None, **spec: Any
) -> tuple[int, str] | None:
    """The epoch after which training stops, and why."""
    rows: list[dict[str, float | int]] = []
    parsed = EarlyStopping.model_validate(spec)
    for epoch, accuracy in enumerate(accuracies, start=1):
        rows.append({"epoch": epoch, "valAccuracy": accuracy, "valLoss": losses[epoch - 1] if losses else 1.0})
        if reason := should_stop(rows, parsed, ACCURACY):
            return epoch, reason
    return None


def test_it_stops_when_patience_is_at_its_end() -> None:
    assert stop_after([0.5, 0.6, 0.6, 0.59, 0.6], patience=3) == (
        5,
        "valAccuracy has not improved by more than 0 for 3 epochs; its best was 0.6 in epoch 2",
    )


def test_an_improvement_in_time_begins_the_count_anew() -> None:
    assert stop_after([0.5, 0.5, 0.6, 0.6, 0.7, 0.7], patience=2) is None


def test_a_gain_of_no_more_than_min_delta_is_none() -> None:
    assert stop_after([0.5, 0.625, 0.75], patience=2, minDelta=0.125) is None
    found = stop_after([0.5, 0.625, 0.5], patience=2, minDelta=0.125)
    assert found is not None
    assert found[0] == 3


def test_small_gains_add_up_to_one() -> None:
    assert stop_after([0.5, 0.58, 0.66, 0.74, 0.82], patience=2, minDelta=0.1) is None


def test_the_user_can_choose_the_loss() -> None:
    found = stop_after([0.5, 0.6, 0.7], [1.0, 1.1, 1.2], patience=2, metric="loss", mode="min")
    assert found is not None
    assert found[1].startswith("valLoss has not improved")


def test_epochs_without_a_validation_do_not_count() -> None:
    rows: list[dict[str, float | int]] = [{"epoch": 1, "valAccuracy": 0.5, "valLoss": 1.0}]
    rows += [{"epoch": epoch, "trainLoss": 1.0} for epoch in range(2, 9)]
    assert should_stop(rows, EarlyStopping(patience=1), ACCURACY) is None
    assert should_stop([], EarlyStopping(patience=1), ACCURACY) is None


def test_a_metric_that_is_no_number_never_improves() -> None:
    nan = float("nan")
    assert stop_after([0.5, nan, nan], patience=2) is not None
    assert stop_after([nan, 0.5, 0.6, 0.7], patience=2) is None, "a number beats none"
    found = stop_after([nan, 0.7, 0.6, 0.5], patience=2)
    assert found is not None
    assert found[1].endswith("its best was 0.7 in epoch 2")
    assert stop_after([nan, float("inf"), nan], patience=3) == (3, "valAccuracy has been no finite number in 3 epochs")


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"earlyStopping.metric auc is not a metric .* there are accuracy, loss"):
        stop_after([0.5], metric="auc", mode="max")
    with pytest.raises(UserError, match="there are accuracy, loss"):
        better({"accuracy": 1.0, "loss": 0.0}, {}, Objective("auc", "max"))


BETTER = [
    pytest.param(ACCURACY, (0.1, 9.0), None, True, id="the first is the best"),
    pytest.param(ACCURACY, (0.9, 2.0), (0.8, 1.0), True, id="higher"),
    pytest.param(ACCURACY, (0.7, 0.5), (0.8, 1.0), False, id="lower"),
    pytest.param(ACCURACY, (0.8, 0.5), (0.8, 1.0), True, id="as high, lower loss"),
    pytest.param(ACCURACY, (0.8, 1.0), (0.8, 1.0), False, id="equal"),
    pytest.param(ACCURACY, (float("nan"), 1.0), (0.8, 1.0), False, id="no number"),
    pytest.param(ACCURACY, (float("nan"), 1.0), None, False, id="no number is not even the first"),
    pytest.param(ACCURACY, (0.1, 1.0), (float("nan"), 1.0), True, id="a number after one that was none"),
    pytest.param(LOSS, (0.1, float("-inf")), (0.8, 1.0), False, id="infinite"),
    pytest.param(LOSS, (0.1, 0.5), (0.8, 1.0), True, id="by the loss"),
]


@pytest.mark.parametrize(("objective", "new", "old", "expected"), BETTER)
def test_the_best_checkpoint(
    objective: Objective, new: tuple[float, float], old: tuple[float, float] | None, expected: bool
) -> None:
    best = {"accuracy": old[0], "loss": old[1]} if old else {}
    assert better({"accuracy": new[0], "loss": new[1]}, best, objective) is expected


def test_the_tasks_metric_is_taken_when_the_user_names_none() -> None:
    assert objective_of(None, ACCURACY) == ACCURACY
    assert objective_of(EarlyStopping(), ACCURACY) == ACCURACY
    assert objective_of(EarlyStopping(metric="loss", mode="min"), ACCURACY) == LOSS


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"metric": "loss"}, LOSS),
        ({"metric": "f1"}, Objective("f1", "max")),
        ({"metric": "wordErrorRate", "mode": "min"}, Objective("wordErrorRate", "min")),
        ({"metric": "perplexity"}, Objective("perplexity", "min")),
    ],
    ids=["known here", "the other way", "the user's own", "the task's own"],
)
def test_the_direction_is_the_metrics(fields: dict[str, Any], expected: Objective) -> None:
    assert objective_of(EarlyStopping.model_validate(fields), Objective("perplexity", "min")) == expected


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"metric": "loss", "mode": "max"}, "mode max: loss gets better as it falls; write min"),
        ({"metric": "perplexity", "mode": "max"}, "mode max: perplexity gets better as it falls"),
        ({"metric": "wordErrorRate"}, r"mode is missing: say whether wordErrorRate should rise \(max\) or fall"),
    ],
    ids=["known here", "the task's own", "of a metric that nobody knows"],
)
def test_a_direction_that_makes_no_sense_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=f"training.earlyStopping.{sentence}"):
        objective_of(EarlyStopping.model_validate(fields), Objective("perplexity", "min"))
