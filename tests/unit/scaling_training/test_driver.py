from __future__ import annotations

import errno
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from scaling_api import driver as contract
from scaling_api.driver import (
    ENV_ATTEMPT,
    ENV_RUN_DIR,
    ENV_SPEC,
    ENV_STORAGE_ROOT,
    ExitCode,
    ProgressReport,
    WorkerBounds,
)
from scaling_api.reasons import Failure
from scaling_api.redaction import redacted
from scaling_api.spec import ScalingJob
from scaling_training import driver
from scaling_training.driver import drive
from scaling_training.ending import FAILED, Ending
from scaling_training.engine import EngineError
from scaling_training.engine.ray_health import Silent
from scaling_training.engine.run import StoppedError, Watch
from scaling_training.engine.worker import WorkerTask
from scaling_training.errors import UserError
from scaling_training.ledger import Ledger, Record, SupersededError
from scaling_training.progress import ProgressModel
from scaling_training.progress.show import Ears
from scaling_training.result import status_result
from scaling_training.settings import Settings, settings_from_environment
from scaling_training.storage import Storage
from scaling_training.train.types import TrainingProgress, TrainOutcome
from tests.unit.scaling_training.builders import a_spec


def a_job() -> ScalingJob:
    return ScalingJob.model_validate(
        {
            "apiVersion": "scaling.dev/v1alpha1",
            "kind": "ScalingJob",
            "metadata": {"name": "job"},
            "spec": a_spec().to_json_dict(),
        }
    )


def not_at_all(ending: Ending) -> None:
    """For runs whose Ray is well."""
    raise AssertionError(ending)


def end_with(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shows: Sequence[driver.ShowMaker] = ()
) -> Ending:
    """What the driver makes of an error that training raises."""

    class Failing:
        def __init__(self, spec: object, address: object, silent: object) -> None:
            pass

        def __call__(self, task: WorkerTask, watch: Watch) -> TrainOutcome:
            if isinstance(error, SystemExit) and error.code == signal.SIGTERM:
                namespace = {"__name__": "ray._private.worker"}
                exec("import sys\ndef sigterm_handler(number): sys.exit(number)", namespace)
                namespace["sigterm_handler"](error.code)  # type: ignore[operator]
            raise error

    monkeypatch.setattr(driver, "RayEngine", Failing)
    return drive(Settings(a_job(), Storage(str(tmp_path)), attempt=1), shows=shows, give_up=not_at_all)


@pytest.mark.parametrize(
    ("error", "code", "reason", "words"),
    [
        pytest.param(UserError("lower it"), ExitCode.REFUSED, Failure.USER_ERROR, "lower it", id="a user's mistake"),
        pytest.param(StoppedError(), ExitCode.STOPPED, Failure.STOPPED, "what was done is saved", id="a stop"),
        pytest.param(
            StoppedError(saved=False),
            ExitCode.STOPPED,
            Failure.STOPPED,
            "is lost, and done again",
            id="a stop too late",
        ),
        pytest.param(SupersededError(1, 2), ExitCode.STOPPED, Failure.STOPPED, "by attempt 2", id="a later attempt"),
        pytest.param(EngineError("oom", Failure.OUT_OF_MEMORY), 1, Failure.OUT_OF_MEMORY, "oom", id="the engine"),
        pytest.param(RuntimeError("bug"), 1, Failure.DRIVER_FAILED, "RuntimeError: bug, at tests/unit", id="a bug"),
        pytest.param(
            SystemExit(15), ExitCode.STOPPED, Failure.STOPPED, "before training", id="SIGTERM while Ray starts"
        ),
        pytest.param(
            SystemExit("no GPU here"),
            ExitCode.REFUSED,
            Failure.USER_ERROR,
            "the job's own code called sys.exit('no GPU here'), at tests/unit/scaling_training/test_driver.py:",
            id="the user's code ends the process",
        ),
    ],
)
def test_every_end_has_an_exit_code_and_a_sentence(
    error: BaseException, code: int, reason: Failure, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = end_with(error, tmp_path, monkeypatch)
    assert ending.code == code
    assert ending.termination is not None
    assert ending.termination.reason == reason
    assert words in ending.termination.message


def test_whoever_reports_progress_does_not_wait_for_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_step = TrainingProgress(epoch=1, epochs=1, step=1, steps=2, workers=1, first_step_at=time.time())
    hangs, reported = threading.Event(), threading.Event()

    class Training:
        def __init__(self, spec: object, address: object, silent: object) -> None:
            pass

        def __call__(self, task: WorkerTask, watch: Watch) -> TrainOutcome:
            watch.progress(first_step)
            reported.set()
            raise StoppedError

    write = Storage.write

    def hang(storage: Storage, name: str, data: bytes | bytearray) -> None:
        if name.startswith("timeline/"):
            assert hangs.wait(120)
        write(storage, name, data)

    monkeypatch.setattr(driver, "RayEngine", Training)
    monkeypatch.setattr(Storage, "write", hang)
    ends = threading.Timer(60, hangs.set)
    ends.start()
    drive(Settings(a_job(), Storage(str(tmp_path)), attempt=1), shows=(), give_up=not_at_all)
    waited = hangs.is_set()
    ends.cancel()
    hangs.set()
    assert reported.is_set()
    assert not waited


def test_what_the_operator_says_of_the_workers_reaches_a_running_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Sequence[WorkerBounds]] = []

    class Show:
        def __init__(self, model: ProgressModel, ears: Ears) -> None:
            self.ears = ears

        def start(self) -> None:
            running.append(self)

        def close(self) -> None: ...

    running: list[Show] = []

    class Engine:
        def __init__(self, spec: object, address: object, silent: object) -> None:
            pass

        def __call__(self, task: WorkerTask, watch: Watch) -> TrainOutcome:
            heard.append(watch.bounds())
            running[0].ears.bounds([WorkerBounds(name="cpu", min=1, max=3)])
            heard.append(watch.bounds())
            raise StoppedError

    monkeypatch.setattr(driver, "RayEngine", Engine)
    drive(Settings(a_job(), Storage(str(tmp_path)), attempt=1), shows=[Show], give_up=not_at_all)
    assert heard == [(), [WorkerBounds(name="cpu", min=1, max=3)]]


SECRET, SHOWN = "https://me:pass@store/a?sig=abc", "https://***@store/a?sig=***"


@pytest.mark.parametrize(
    "error",
    [UserError(f"weights {SECRET} are gone"), EngineError(f"weights {SECRET} are gone"), OSError(f"GET {SECRET}")],
    ids=["a user's mistake", "the engine", "a store's driver"],
)
def test_no_secret_of_a_uri_gets_into_message_ledger_or_log(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shows: list[ProgressModel] = []
    record = logging.LogRecord("driver", logging.ERROR, "", 0, "failed", None, None)

    class Kept:
        def start(self) -> None: ...
        def close(self) -> None: ...

    def keep(model: ProgressModel, on_refused: object) -> Kept:
        shows.append(model)
        return Kept()

    ending = end_with(error, tmp_path, monkeypatch, shows=[keep])
    assert ending.termination is not None
    assert SHOWN in ending.termination.message
    (train,) = [stage for stage in shows[0].snapshot().stages if stage.name == "train"]
    assert SHOWN in str(train.message)
    written = (tmp_path / "ledger/attempt-0001/train.json").read_text()
    assert SHOWN in written
    assert "pass" not in written.replace("passed", "")
    record.exc_info = (type(error), error, None)
    assert SHOWN in driver.Redacting("%(message)s").format(record)


def test_what_is_waited_for_is_said_without_secrets() -> None:
    model = ProgressModel("job", 1, ["train"])
    model.say(f"restarting: {SECRET} does not answer")
    assert model.snapshot().message == f"restarting: {SHOWN} does not answer"


def test_artifacts_are_named_without_secrets_and_have_their_size(tmp_path: Path) -> None:
    storage = Storage(f"memory://me:pass@{tmp_path.name}/run")
    storage.write("metrics.json", b"{}")
    assert "pass" not in repr(storage)
    result = {"metrics": {"test": {}}, "artifacts": {"metrics": redacted(storage.url("metrics.json"))}}
    (artifact,) = status_result(result, storage).artifacts
    assert artifact.uri == f"memory://***@{tmp_path.name}/run/metrics.json"
    assert artifact.size_bytes == 2


def test_a_second_driver_of_an_attempt_is_turned_away(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    Ledger(storage, attempt=1).claim({})
    ending = drive(Settings(a_job(), storage, attempt=1), shows=[], give_up=not_at_all)
    assert ending.code == 1
    assert ending.termination is not None
    assert "was started before" in ending.termination.message


def test_a_signal_asks_for_a_stop_and_handlers_are_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)

    class Waiting:
        def __init__(self, spec: object, address: object, silent: object) -> None:
            pass

        def __call__(self, task: WorkerTask, watch: Watch) -> TrainOutcome:
            os.kill(os.getpid(), signal.SIGTERM)
            deadline = time.monotonic() + 60
            while not watch.stop_requested():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            raise StoppedError

    monkeypatch.setattr(driver, "RayEngine", Waiting)
    ending = drive(Settings(a_job(), Storage(str(tmp_path)), attempt=1), shows=[], give_up=not_at_all)
    assert ending.code == ExitCode.STOPPED
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("number", "says"),
    [
        pytest.param(signal.SIGINT, "stopping; press Ctrl-C again to end at once", id="somebody at a terminal"),
        pytest.param(signal.SIGTERM, "", id="a kubelet"),
    ],
)
def test_an_interrupt_is_answered_while_the_main_thread_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, says: str
) -> None:
    models: list[ProgressModel] = []

    class Silent:
        def start(self) -> None:
            pass

        def close(self) -> None:
            pass

    class Busy:
        def __init__(self, spec: object, address: object, silent: object) -> None:
            pass

        def __call__(self, task: WorkerTask, watch: Watch) -> TrainOutcome:
            [model] = models
            os.kill(os.getpid(), number)
            deadline = time.monotonic() + (60.0 if says else 0.5)
            while not model.snapshot().message and time.monotonic() < deadline:
                time.sleep(0.01)
            assert model.snapshot().message == says
            raise StoppedError

    def show(model: ProgressModel, ears: Ears) -> Silent:
        models.append(model)
        return Silent()

    monkeypatch.setattr(driver, "RayEngine", Busy)
    ending = drive(Settings(a_job(), Storage(str(tmp_path)), attempt=1), shows=[show], give_up=not_at_all)
    assert ending.code == ExitCode.STOPPED


def test_the_operators_environment_is_read(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text(a_job().model_dump_json(by_alias=True, exclude_none=True))
    settings = settings_from_environment(
        {ENV_SPEC: str(manifest), ENV_RUN_DIR: str(tmp_path / "run"), ENV_ATTEMPT: "3", ENV_STORAGE_ROOT: str(tmp_path)}
    )
    assert settings.job == a_job()
    assert settings.attempt == 3
    assert settings.ray_address is None


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(UserError, match=f"{ENV_SPEC} is not set"):
        settings_from_environment({})


def test_a_wrong_manifest_is_a_users_mistake(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"kind": "Pod"}))
    with pytest.raises(UserError, match="no ScalingJob"):
        settings_from_environment({ENV_SPEC: str(manifest)})


def test_a_resume_from_nowhere_is_a_users_mistake(tmp_path: Path) -> None:
    manifest = a_job().model_dump(by_alias=True, exclude_none=True)
    manifest["spec"]["storage"] = {"claimName": "runs", "resumeFrom": "team/earlier"}
    settings = Settings(
        ScalingJob.model_validate(manifest), Storage(str(tmp_path / "run")), 1, storage_root=str(tmp_path)
    )
    ending = drive(settings, shows=[], give_up=not_at_all)
    assert ending.code == ExitCode.REFUSED
    assert ending.termination is not None
    assert "/team/earlier holds no run; name an earlier run's folder" in ending.termination.message


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("away", ["the run's", "the earlier run's"])
def test_storage_that_does_not_answer_ends_the_attempt_with_a_sentence(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{closed_port()}",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "key",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    manifest = a_job().model_dump(by_alias=True, exclude_none=True)
    manifest["spec"]["storage"] = {"claimName": "runs", "resumeFrom": "team/earlier"}
    # One that an earlier test has used is kept, and knows the server of that time; so would this test's.
    S3FileSystem.clear_instance_cache()
    request.addfinalizer(S3FileSystem.clear_instance_cache)
    run = Storage("s3://bucket/run" if away == "the run's" else str(tmp_path / "run"))
    settings = Settings(ScalingJob.model_validate(manifest), run, 1, storage_root="s3://bucket")
    ending = drive(settings, shows=[], give_up=not_at_all)
    assert ending.code == FAILED, "another attempt may find it there"
    assert ending.termination is not None
    assert ending.termination.reason == Failure.STORAGE_AWAY
    asked = "s3://bucket/run" if away == "the run's" else "s3://bucket/team/earlier"
    assert f"storage {asked} does not answer (Could not connect" in ending.termination.message
    assert ending.termination.message.endswith("look at its mount or endpoint, and at the network")


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.EIO, FAILED, "does not answer ([Errno 5] Input/output error"),
        (errno.ESTALE, FAILED, "does not answer ([Errno 116] Stale file handle"),
        (errno.ENOSPC, ExitCode.REFUSED, "is full: free some space or name another place"),
        (errno.EROFS, ExitCode.REFUSED, "refuses access (Read-only file system)"),
    ],
    ids=["broken", "unmounted", "full", "read-only"],
)
def test_what_is_wrong_with_storage_is_told_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, words: str
) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    ending = drive(Settings(a_job(), Storage(str(tmp_path)), attempt=1), shows=[], give_up=not_at_all)
    assert ending.code == code
    assert ending.termination is not None
    assert words in ending.termination.message


def test_a_stop_does_not_wait_for_storage_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = threading.Event()

    def hang(storage: Storage, name: str, data: bytes) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        hangs.wait(120)

    monkeypatch.setattr(Storage, "write", hang)
    ending = drive(Settings(a_job(), Storage(str(tmp_path)), attempt=1), shows=[], give_up=not_at_all)
    waited = hangs.is_set()
    hangs.set()
    assert not waited
    assert ending.code == ExitCode.STOPPED


def test_a_driver_whose_ray_is_frozen_says_so_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_up: list[Ending] = []

    class Frozen:
        def __init__(self, spec: object, address: object, silent: Callable[[Silent], None]) -> None:
            self._silent = silent
            self.evaluate = None

        def __call__(self, task: WorkerTask, watch: Watch) -> TrainOutcome:
            self._silent(Silent("the head's raylet", 30.2))
            raise StoppedError

    monkeypatch.setattr(driver, "RayEngine", Frozen)
    settings = Settings(a_job(), Storage(str(tmp_path)), attempt=1, ray_address="127.0.0.1:6379")
    drive(settings, shows=[], give_up=given_up.append)
    (ending,) = given_up
    assert ending.code == ExitCode.RAY_SILENT
    assert ending.termination is not None
    assert ending.termination.reason == Failure.UNRESPONSIVE
    assert ending.termination.message == (
        "the head's raylet did not answer the driver for 30 s: its processes are frozen, or get no CPU or memory; if "
        "it comes again, raise cluster.head.resources"
    )


def test_what_came_out_is_the_drivers_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: dict[str, dict[str, object]] = {
        "analyze": {},
        "train": {"epoch": 1, "step": 9, "seconds": 1.0, "best": None, "checkpoint": {"folder": "checkpoints/9"}},
        "evaluate": {},
        "report": {
            "objective": {"metric": "mse", "mode": "min"},
            "metrics": {"test": {"mse": 0.97}},
            "artifacts": {"model": "model"},
            "skipped": {},
        },
    }

    def all_done(stages: object, run: object, ledger: object, progress: ProgressModel) -> dict[str, Record]:
        for name in outputs:
            progress.stage_ended(name, "Succeeded")
        return {name: Record(name, "digest", "Succeeded", "", "", output) for name, output in outputs.items()}

    manifest, said = tmp_path / "manifest.json", tmp_path / "termination-log"
    manifest.write_text(a_job().model_dump_json(by_alias=True, exclude_none=True))
    for name, value in {ENV_SPEC: manifest, ENV_RUN_DIR: tmp_path / "run", ENV_ATTEMPT: 3}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(driver, "run_stages", all_done)
    monkeypatch.setattr(contract, "TERMINATION_LOG", str(said))
    monkeypatch.setattr(contract, "PORT_METRICS", 0)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as ended:
        driver.main()
    assert ended.value.code == ExitCode.SUCCEEDED
    report = ProgressReport.model_validate_json(said.read_text())
    assert report.attempt == 3
    assert {stage.state for stage in report.stages} == {"Succeeded"}
    assert report.result is not None
    assert report.result.metrics == {"mse": 0.97}
    assert report.objective is not None
    assert report.objective.summary == "mse 0.9700"
    assert [artifact.name for artifact in report.result.artifacts] == ["model", "result"]
