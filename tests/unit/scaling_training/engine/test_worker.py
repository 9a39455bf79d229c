from __future__ import annotations

import sys
from typing import Any

import pytest

from scaling_training.engine import worker
from scaling_training.engine.worker import Training, WorkerTask
from scaling_training.errors import UserError
from scaling_training.factory import place_of

_TASK = WorkerTask(
    spec={"model": {"factory": "speech:model"}, "training": {}}, storage_root="", attempt=1, job=Training("", None)
)


def _exit(task: WorkerTask) -> dict[str, Any]:
    sys.exit("no GPU here")


def _fail(task: WorkerTask) -> dict[str, Any]:
    raise KeyError("embedding")


def test_an_exit_in_the_users_code_is_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_do", _exit)
    with pytest.raises(
        UserError, match=r"the job's own code called sys.exit\('no GPU here'\), at .*test_worker.py:\d+"
    ):
        worker.run(_TASK)


def test_an_error_leaves_with_the_line_that_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_do", _fail)
    with pytest.raises(KeyError) as raised:
        worker.run(_TASK)
    assert "test_worker.py:" in str(place_of(raised.value.with_traceback(None)))
