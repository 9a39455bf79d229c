"""The code of the pages about using a model and writing a task does what they say."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from scaling_api.spec import ScalingJobSpec
from scaling_training import code
from scaling_training.report import load_model
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.data.folders import fill
from tests.unit.scaling_training.stages.test_stages import folder_job, go
from tests.unit.scaling_training.test_examples import the_example

DOCS = Path(__file__).parents[3] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def trained_by_code(folder: Path, spec: ScalingJobSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose factories are of a file; afterwards this process knows nothing of that."""
    assert spec.code is not None
    monkeypatch.setattr(code, "_installed", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    code.install(spec.code)
    states, _ = go(folder, spec=spec)
    assert set(states.values()) == {"Succeeded"}
    monkeypatch.setattr(sys, "path", before)
    del sys.modules[Path(spec.code.uri).stem]


def test_a_trained_model_is_used_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    go(tmp_path / "runs/digits", spec=a_spec(epochs=4, batchSize=64))
    trained_by_code(tmp_path / "runs/regression", the_example("regression", epochs=5).spec, monkeypatch)
    fill(tmp_path / "flowers", {"iris": 20, "rose": 20})
    go(tmp_path / "runs/flowers", spec=folder_job(tmp_path / "flowers"))
    (tmp_path / "photos").mkdir()
    for name in ("first", "second"):
        Image.fromarray(np.zeros((20, 12, 3), dtype=np.uint8)).save(tmp_path / f"photos/{name}.png")
    monkeypatch.chdir(tmp_path)

    names: dict[str, object] = {}
    for block in blocks("using-a-model.md", "python"):
        exec(compile(block, "using-a-model.md", "exec"), names)

    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"classes {tuple('0123456789')} (1, 8, 8)"
    assert told[1] == "['0', '1', '2']"
    assert len(names["predicted"]) == 5  # type: ignore[arg-type]


def test_the_task_of_the_page_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uncertain.py").write_text("\n".join(blocks("writing-a-task.md", "python")))
    (shown,) = blocks("writing-a-task.md", "yaml")
    section = yaml.safe_load(shown)["spec"]
    section["code"]["uri"] = str(tmp_path / "uncertain.py")
    trained_by_code(tmp_path / "run", ScalingJobSpec.model_validate(section), monkeypatch)
    (tmp_path / "uncertain.py").unlink()

    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["objective"] == {"metric": "loss", "mode": "min"}
    assert metrics["test"].keys() >= {"loss", "mae", "coverage"}
    assert metrics["test"]["coverage"] > 0.8
    assert metrics["test"]["mae"] < 0.8, "the mean has 0.86"
    trained = load_model(str(tmp_path / "run/model"))
    assert type(trained.task).__name__ == "UncertainTask"
    assert trained.scores(np.zeros((3, 10), dtype=np.float32)).shape == (3, 2)
