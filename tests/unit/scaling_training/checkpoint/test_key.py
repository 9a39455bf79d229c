from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scaling_api.spec import CodeSpec, WeightsSpec
from scaling_training.checkpoint.key import checkpoint_key
from tests.unit.scaling_training.builders import a_spec


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param({"parallelism": {"data": 3}}, True, id="more processes: the same work"),
        pytest.param({"checkpoint": {"keep": 9}}, True, id="more checkpoints: the same work"),
        pytest.param({"accumulation": 4}, True, id="more micro-batches: the same work"),
        pytest.param({"activationCheckpointing": True}, True, id="activations computed again: the same work"),
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


def test_other_code_or_weights_in_the_same_place_are_other_work(tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    spec = a_spec()
    model = spec.model.model_copy(update={"weights": WeightsSpec(uri=str(weights))})
    folders = [tmp_path / name for name in ("a", "b")]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / "module.py").write_text(f"NUMBER = {number}")
    keys = []
    for content in (b"1", b"2"):
        weights.write_bytes(content)
        keys.append(checkpoint_key(spec.model_copy(update={"model": model}), "data"))
    keys += [checkpoint_key(spec.model_copy(update={"code": CodeSpec(uri=str(folder))}), "data") for folder in folders]
    assert len({checkpoint_key(spec, "data"), *keys}) == 5
