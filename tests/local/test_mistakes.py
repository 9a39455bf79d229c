"""What a user did wrong is said in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.local import runs

pytestmark = pytest.mark.timeout(120)


def test_a_loss_that_is_not_finite_ends_the_run_at_once(tmp_path: Path) -> None:
    file = runs.manifest(tmp_path, optimizer={"name": "sgd", "learningRate": 100.0, "weightDecay": 10.0})
    finished = runs.run(str(file), "--run-dir", str(tmp_path / "run"), folder=tmp_path / "run")
    assert finished.code == 2, finished.err
    assert "lower training.optimizer.learningRate" in finished.err.splitlines()[-1]
    assert "Traceback" not in finished.err
    assert "restarting" not in finished.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["--resume", "nowhere"], "no such folder", id="resume of nothing"),
        pytest.param(["--resume", "."], "is no run folder", id="resume of another folder"),
        pytest.param(["--run-dir", "."], "is not an empty folder", id="run folder with something in it"),
        pytest.param(["--workers", "65"], "at most training.batchSize (64)", id="more workers than samples"),
    ],
)
def test_arguments(arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = runs.manifest(tmp_path)
    monkeypatch.chdir(tmp_path)
    finished = runs.run(str(file), *arguments, folder=tmp_path)
    assert finished.code == 2
    assert sentence in finished.err
    assert len(finished.err.splitlines()) == 1
