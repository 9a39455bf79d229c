from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest

from scaling_api.base import Model
from scaling_api.spec import DatasetSpec, ModelSpec, OptimizerSpec, ScheduleSpec
from scaling_training.data import DATASETS
from scaling_training.errors import UserError
from scaling_training.models import MODELS
from scaling_training.optim import OPTIMIZERS, SCHEDULES
from scaling_training.registry import lookup, table


def names(annotation: Any) -> Iterator[str]:
    """The choices of a Literal, which may be one of several types."""
    for argument in get_args(annotation):
        yield from [argument] if isinstance(argument, str) else names(argument)


@pytest.mark.parametrize(
    ("records", "spec"),
    [
        pytest.param(MODELS, ModelSpec, id="models"),
        pytest.param(DATASETS, DatasetSpec, id="data sets"),
        pytest.param(OPTIMIZERS, OptimizerSpec, id="optimizers"),
        pytest.param(SCHEDULES, ScheduleSpec, id="schedules"),
    ],
)
def test_the_api_admits_exactly_what_the_table_holds(records: Mapping[str, Any], spec: type[Model]) -> None:
    assert set(records) == set(names(spec.model_fields["name"].annotation))
    assert all(record.description for record in records.values())


def test_two_records_of_one_name_are_an_error() -> None:
    record = MODELS["small-cnn"]
    with pytest.raises(ValueError, match="two records have one name"):
        table(record, record)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"training.optimizer.name lion is not known; known are adagrad, adam, adamw, .*sgd"
    ):
        lookup(OPTIMIZERS, "lion", field="training.optimizer.name")
