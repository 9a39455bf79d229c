from __future__ import annotations

from typing import Any

import pytest

from scaling_training.checkpoint.key import checkpoint_key
from tests.unit.scaling_training.builders import a_spec


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param({"parallelism": {"data": 3}}, True, id="more processes: the same work"),
        pytest.param({"checkpoint": {"keep": 9}}, True, id="more checkpoints: the same work"),
        pytest.param({"epochs": 3}, False, id="more epochs: another schedule"),
        pytest.param({"seed": 1}, False, id="another seed"),
        pytest.param({"optimizer": {"name": "sgd"}}, False, id="another optimizer"),
    ],
)
def test_the_key_tells_whether_weights_may_be_continued(change: dict[str, Any], same: bool) -> None:
    assert (checkpoint_key(a_spec(), "data") == checkpoint_key(a_spec(**change), "data")) is same


def test_other_data_or_another_model_is_other_work() -> None:
    spec = a_spec()
    wide = spec.model_copy(update={"model": spec.model.model_copy(update={"width": 2.0})})
    assert len({checkpoint_key(spec, "a"), checkpoint_key(spec, "b"), checkpoint_key(wide, "a")}) == 3
