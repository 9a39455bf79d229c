from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scaling_api.spec import WeightsSpec
from scaling_training.checkpoint.tensors import file_image
from scaling_training.data import open_dataset
from scaling_training.errors import UserError
from scaling_training.models.job import job_task
from scaling_training.report.artifact import load_model, write_model
from scaling_training.storage import Storage
from tests.unit.scaling_training.builders import a_spec


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        load_model(str(tmp_path))


def test_a_model_is_kept_without_the_secrets_of_where_it_began(tmp_path: Path) -> None:
    spec, folder = a_spec(), Storage(str(tmp_path))
    task = job_task(spec, open_dataset(spec.dataset), device=torch.device("cpu"))
    weights = WeightsSpec(uri="https://store/w.safetensors?X-Amz-Signature=secret")
    signed = spec.model_copy(update={"model": spec.model.model_copy(update={"weights": weights})})
    write_model(folder.write, bytes(file_image(task.model.state_dict())), signed, open_dataset(spec.dataset))

    assert "secret" not in (tmp_path / "architecture.json").read_text()
    architecture = load_model(folder).architecture
    assert architecture["model"]["weights"] == {"uri": "https://store/w.safetensors?X-Amz-Signature=***"}


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "architecture.json").write_text(json.dumps({"format": 99}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="has format 99"):
        load_model(str(tmp_path))
