from __future__ import annotations

import math

from scaling_training.evaluate import Metrics, Objective, validation_key


def test_another_tasks_metrics_need_no_classes() -> None:
    metrics = Metrics({"loss": 2.0, "perplexity": 7.4}, 10, Objective("perplexity", "min"))
    assert metrics.to_dict() == {
        "loss": 2.0,
        "perplexity": 7.4,
        "objective": {"metric": "perplexity", "mode": "min"},
        "samples": 10,
        "skipped": 0,
    }


def test_json_has_null_for_what_is_no_number() -> None:
    metrics = Metrics({"loss": 2, "r2": math.nan}, 10, Objective("r2", "max"))
    assert metrics.to_dict()["r2"] is None
    assert isinstance(metrics.to_dict()["loss"], float), "a whole number is a metric too"


def test_the_direction_belongs_to_the_metric() -> None:
    assert Objective("accuracy", "max").improvement(0.9, over=0.8) > 0
    assert Objective("loss", "min").improvement(0.9, over=0.8) < 0


def test_rows_name_metrics_of_the_validation() -> None:
    assert validation_key("accuracy") == "valAccuracy"
    assert validation_key("top5Accuracy") == "valTop5Accuracy"
