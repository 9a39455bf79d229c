from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scaling_api.spec import CodeSpec, DatasetSpec, ModelSpec, ScalingJobSpec, WeightsSpec
from scaling_training.checkpoint.key import difference, key_of, key_parts, note_work, noted_work
from scaling_training.storage import Storage
from tests.unit.scaling_training.builders import a_spec


def keyed(spec: ScalingJobSpec, data: str = "data") -> str:
    return key_of(key_parts(spec, data))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param({"parallelism": {"data": 3}}, True, id="more processes: the same work"),
        pytest.param({"checkpoint": {"keep": 9}}, True, id="more checkpoints: the same work"),
        pytest.param({"accumulation": 4}, True, id="more micro-batches: the same work"),
        pytest.param({"activationCheckpointing": True}, True, id="activations computed again: the same work"),
        pytest.param({"compile": True}, True, id="compiled: the same work"),
        pytest.param({"deterministic": True}, True, id="other kernels: the same work"),
        pytest.param({"epochs": 3}, False, id="more epochs: another schedule"),
        pytest.param({"seed": 1}, False, id="another seed"),
        pytest.param({"optimizer": {"name": "sgd"}}, False, id="another optimizer"),
    ],
)
def test_the_key_tells_whether_weights_may_be_continued(change: dict[str, Any], same: bool) -> None:
    assert (keyed(a_spec()) == keyed(a_spec(**change))) is same


def test_other_data_or_another_model_is_other_work() -> None:
    spec = a_spec()
    wide = spec.model_copy(update={"model": spec.model.model_copy(update={"width": 2.0})})
    assert len({keyed(spec, "a"), keyed(spec, "b"), keyed(wide, "a")}) == 3


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
        keys.append(keyed(spec.model_copy(update={"model": model})))
    keys += [keyed(spec.model_copy(update={"code": CodeSpec(uri=str(folder))})) for folder in folders]
    assert len({keyed(spec), *keys}) == 5


def test_a_presigned_uri_is_the_same_work_with_another_signature_and_is_kept_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scaling_training.checkpoint.key.source_digests", lambda spec: {"weights": "content"})

    def signed(signature: str) -> ScalingJobSpec:
        query = f"?X-Amz-Signature={signature}"
        spec = a_spec()
        weights = WeightsSpec(uri=f"https://store/w.safetensors{query}")
        dataset = DatasetSpec(name="image-folder", uri=f"https://store/flowers{query}")
        return spec.model_copy(update={"model": spec.model.model_copy(update={"weights": weights}), "dataset": dataset})

    assert keyed(signed("f00d")) == keyed(signed("beef"))
    kept = json.dumps(key_parts(signed("f00d"), "data"))
    assert "https://store/w.safetensors?X-Amz-Signature=***" in kept
    assert "f00d" not in kept


def test_arguments_of_a_factory_count_as_they_are() -> None:
    def of_revision(number: int) -> ScalingJobSpec:
        model = {"factory": "models:build", "arguments": {"uri": f"https://hub/model?revision={number}"}}
        return a_spec().model_copy(update={"model": ModelSpec.model_validate(model)})

    assert keyed(of_revision(1)) != keyed(of_revision(2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"epochs": 3}, "training.epochs is 2 there and 3 here", id="a number"),
        pytest.param(
            {"earlyStopping": {"patience": 4}},
            "training.earlyStopping.patience is absent there and 4 here",
            id="a section that was not there",
        ),
        pytest.param({"parallelism": {"batchNorm": "sync"}}, "training.parallelism.batchNorm is", id="batch norm"),
    ],
)
def test_what_differs_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    there, here = key_parts(a_spec(), "data"), key_parts(a_spec(**change), "data")
    note_work(storage, there)
    noted = noted_work(storage, key_of(there))
    assert noted == there
    assert said in difference(noted, here)
    assert noted_work(storage, key_of(here)) is None


def test_a_hash_is_not_read_out_and_few_of_many_differences_are_named() -> None:
    assert (
        difference(key_parts(a_spec(), "a"), key_parts(a_spec(), "b")) == "the content of the data set is another one"
    )
    changed = a_spec(seed=1, epochs=9, clipNorm=1.0, labelSmoothing=0.1, batchSize=9)
    assert difference(key_parts(a_spec(), "a"), key_parts(changed, "a")).endswith(", 2 more")
