from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from scaling_training.data import loader
from scaling_training.errors import UserError
from scaling_training.storage import Storage
from scaling_training.train import preload
from scaling_training.train.loop import train
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.data.folders import fill, folder_spec
from tests.unit.scaling_training.train.looped import ALONE


def test_no_reader_is_forked_in_the_midst_of_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(3)\ndone = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(preload, "METRICS_MODULES", ("slow_to_import",))
    read = loader._Reader.__getitem__

    def checked(reader: loader._Reader, work: Any) -> Any:
        """In the forked process."""
        module = sys.modules.get("slow_to_import")
        if module is not None and not hasattr(module, "done"):
            return None, UserError("forked while the module was half imported")
        return read(reader, work)

    monkeypatch.setattr(loader._Reader, "__getitem__", checked)
    fill(tmp_path / "pictures", {"a": 20, "b": 20})
    dataset = folder_spec(tmp_path / "pictures", loader={"workers": 1})
    train(
        a_spec(epochs=1, batchSize=16).model_copy(update={"dataset": dataset}),
        storage=Storage(str(tmp_path / "run")),
        attempt=1,
        world=ALONE,
        observer=lambda progress: None,
        stop_requested=lambda: False,
        resume=None,
    )
