from __future__ import annotations

from pathlib import Path

import pytest

from tests.local import runs
from tests.local.runs import Finished


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """An undisturbed run, which the disturbed ones are compared with. Nobody may change its folder."""
    folder = tmp_path_factory.mktemp("straight")
    file = runs.manifest(folder)
    finished = runs.run(str(file), "--run-dir", str(folder / "run"), folder=folder / "run")
    assert finished.code == 0, finished.err
    return finished


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The same job's file."""
    return runs.manifest(tmp_path)
