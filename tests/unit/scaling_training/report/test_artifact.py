from __future__ import annotations

import json
from pathlib import Path

import pytest

from scaling_training.errors import UserError
from scaling_training.report.artifact import load_model


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        load_model(str(tmp_path))


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "architecture.json").write_text(json.dumps({"format": 99}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="has format 99"):
        load_model(str(tmp_path))
