from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaling_training.engine.run import StoppedError, Watch
from scaling_training.engine.worker import WorkerTask
from scaling_training.errors import UserError
from scaling_training.ledger import Ledger, Output, SupersededError
from scaling_training.progress import ProgressModel
from scaling_training.stages.base import Inputs, Run, Stage
from scaling_training.stages.pipeline import run_stages
from scaling_training.storage import Storage
from scaling_training.train.types import TrainOutcome
from tests.unit.scaling_training.builders import a_spec


class Recorder:
    """Two stages, the second of which takes the first one's output; counts what really ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.settings = {"first": 1, "second": 1}
        self.usable = True
        self.fails: Exception | None = None

    def stages(self) -> list[Stage]:
        return [self._stage("first", ()), self._stage("second", ("first",))]

    def _stage(self, name: str, inputs: tuple[str, ...]) -> Stage:
        def depends_on(run: Run) -> Mapping[str, Any]:
            return {"setting": self.settings[name]}

        def run(run: Run, given: Inputs) -> Output:
            if self.fails and name == "second":
                raise self.fails
            self.ran.append(name)
            return {"value": [self.settings[name], *(given[source]["value"] for source in inputs)]}

        def reuse(run: Run, output: Output, root: str | None) -> Output | None:
            return output if self.usable else None

        return Stage(name, "", inputs, version=1, depends_on=depends_on, run=run, reuse=reuse)


def never(task: WorkerTask, watch: Watch) -> TrainOutcome:
    raise AssertionError("nothing trains here")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


def go(recorder: Recorder, storage: Storage, attempt: int, *, stop: bool = False) -> dict[str, tuple[str, Output]]:
    ledger = Ledger(storage, attempt=attempt)
    run = Run(
        job="job",
        spec=a_spec(),
        storage=storage,
        attempt=attempt,
        previous=None,
        engine=never,
        watch=Watch(
            progress=lambda progress: None,
            say=lambda sentence: None,
            mark=lambda name, at=0.0: None,
            stop_requested=lambda: stop,
        ),
        publish=ledger.publish,
    )
    stages = recorder.stages()
    model = ProgressModel("job", attempt, [stage.name for stage in stages])
    ledger.claim({})
    recorder.ran.clear()
    records = run_stages(stages, run, ledger, model)
    shown = {stage.name: stage.state for stage in model.snapshot().stages}
    assert shown == {name: record.state for name, record in records.items()}
    return {name: (record.state, record.output) for name, record in records.items()}


def test_outputs_flow_from_stage_to_stage(storage: Storage) -> None:
    assert go(Recorder(), storage, 1) == {
        "first": ("Succeeded", {"value": [1]}),
        "second": ("Succeeded", {"value": [1, [1]]}),
    }


def test_a_finished_run_does_nothing_a_second_time(storage: Storage) -> None:
    recorder = Recorder()
    first = go(recorder, storage, 1)
    second = go(recorder, storage, 2)
    assert recorder.ran == []
    assert {name: output for name, (_, output) in second.items()} == {
        name: output for name, (_, output) in first.items()
    }
    assert {state for state, _ in second.values()} == {"Reused"}


@pytest.mark.parametrize(
    ("edited", "ran"),
    [
        pytest.param("first", ["first", "second"], id="an edit of the first runs both"),
        pytest.param("second", ["second"], id="an edit of the second runs that one"),
    ],
)
def test_an_edit_runs_what_depends_on_it(storage: Storage, edited: str, ran: list[str]) -> None:
    recorder = Recorder()
    go(recorder, storage, 1)
    recorder.settings[edited] = 2
    go(recorder, storage, 2)
    assert recorder.ran == ran


def test_an_edit_taken_back_finds_the_old_work(storage: Storage) -> None:
    recorder = Recorder()
    go(recorder, storage, 1)
    recorder.settings["first"] = 2
    go(recorder, storage, 2)
    recorder.settings["first"] = 1
    go(recorder, storage, 3)
    assert recorder.ran == []


def test_another_version_of_the_code_runs_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    go(recorder, storage, 1)
    newer = [replace(stage, version=2) for stage in recorder.stages()]
    monkeypatch.setattr(recorder, "stages", lambda: newer)
    go(recorder, storage, 2)
    assert recorder.ran == ["first", "second"]


def test_work_whose_files_are_gone_runs_again(storage: Storage) -> None:
    recorder = Recorder()
    go(recorder, storage, 1)
    recorder.usable = False
    go(recorder, storage, 2)
    assert recorder.ran == ["first", "second"]


def test_a_failure_is_noted_and_only_the_rest_runs_next_time(storage: Storage) -> None:
    recorder = Recorder()
    recorder.fails = UserError("the rate is too high")
    with pytest.raises(UserError):
        go(recorder, storage, 1)
    assert b"the rate is too high" in storage.read("ledger/attempt-0001/second.json")
    recorder.fails = None
    go(recorder, storage, 2)
    assert recorder.ran == ["second"]


def test_a_stop_ends_before_the_next_stage(storage: Storage) -> None:
    recorder = Recorder()
    with pytest.raises(StoppedError):
        go(recorder, storage, 1, stop=True)
    assert recorder.ran == []


def test_a_stage_that_a_later_attempt_took_over_from_has_not_failed(storage: Storage) -> None:
    recorder = Recorder()
    recorder.fails = SupersededError(1, 2)
    with pytest.raises(SupersededError):
        go(recorder, storage, 1)
    assert storage.names("ledger/attempt-0001") == ["first.json"]
