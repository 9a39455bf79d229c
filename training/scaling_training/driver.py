"""The driver: works through a job's stages and says how they ended.

`scaling-driver` is the main process of the head pod. It reads its inputs from the environment (scaling_api.driver
names the variables) and answers with an exit code and a termination message. `scalingjob run` calls `drive`
with settings of its own.

A first SIGTERM or SIGINT asks for a stop: training saves a checkpoint and the driver ends with STOPPED. A second
one ends it at once.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from scaling_api import driver as contract
from scaling_api.driver import ExitCode, ProgressReport, Termination, WorkerBounds
from scaling_api.reasons import Failure
from scaling_api.redaction import redacted
from scaling_api.spec import ScalingJob
from scaling_api.status import Artifact, Result
from scaling_training.aside import Aside
from scaling_training.code import install
from scaling_training.engine import EngineError
from scaling_training.engine.launch import RayEngine
from scaling_training.engine.ray_health import Silent
from scaling_training.engine.run import TICK_S, StoppedError, Watch
from scaling_training.errors import UserError
from scaling_training.evaluate.metrics import Objective
from scaling_training.factory import place_of, raised_by, told
from scaling_training.lease import Lease
from scaling_training.ledger import AttemptTakenError, Ledger, Record, SupersededError, latest_attempt
from scaling_training.progress import ProgressModel
from scaling_training.progress.last_words import last_words
from scaling_training.progress.show import Ears, Show
from scaling_training.progress.stall import StallWatch
from scaling_training.stages import STAGES
from scaling_training.stages.base import Run
from scaling_training.stages.pipeline import run_stages
from scaling_training.stages.stopping import unless_stopped
from scaling_training.storage import Storage, StorageAwayError
from scaling_training.timeline import Timeline
from scaling_training.train import preload
from scaling_training.train.types import TrainingProgress

log = logging.getLogger("scaling_training.driver")

RESULT = "result.json"
FAILED = 1
_MESSAGE_LIMIT = 1024
# How long a run that has its result waits for storage to take the timeline.
TIMELINE_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What a driver is told."""

    job: ScalingJob
    storage: Storage
    attempt: int
    storage_root: str | None = None  # what resumeFrom is relative to
    ray_address: str | None = None  # None: start Ray on this machine
    timeline: Timeline = field(default_factory=Timeline)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended: with a result and the last report of it, or with what went wrong."""

    code: int
    termination: Termination | None = None
    result: Mapping[str, Any] | None = None
    report: ProgressReport | None = None


ShowMaker = Callable[[ProgressModel, Ears], Show]
# Says how the run ended, and ends the process at once.
GiveUp = Callable[[Ending], None]


def drive(settings: Settings, shows: Sequence[ShowMaker], give_up: GiveUp) -> Ending:
    """Run the job's stages in this process; call it from the main thread, because it handles signals.

    Each of ``shows`` is made with the progress and with whom to tell what it hears: that this driver may have been
    superseded, and edits of the worker groups' bounds. ``give_up`` is called, on another thread, when Ray is frozen,
    and whatever waits for it.
    """
    if logging.lastResort is not None:
        # What Python logs with where nobody set up anything, as on a terminal.
        logging.lastResort.setFormatter(Redacting("%(message)s"))
    model = ProgressModel(settings.job.metadata.name, settings.attempt, [stage.name for stage in STAGES])
    stop = _Stop(model.say)
    previous = _previous(settings)
    ledger = Ledger(settings.storage, attempt=settings.attempt, previous=previous)
    edits = _Edits()
    ears = Ears(superseded=lambda: _confirm_superseded(ledger, stop), bounds=edits.hear)
    running = [*(make(model, ears) for make in shows), StallWatch(model)]
    lease = None if settings.ray_address else Lease(settings.storage, ledger, stop.supersede)
    with stop:
        for show in running:
            show.start()
        try:
            ending = _ending(lambda: _run(settings, ledger, model, stop, edits, previous, give_up, lease), stop)
        finally:
            if lease is not None:
                lease.close()
            if not model.snapshot().ended:
                model.finish(None)
            for show in running:
                show.close()
    return ending


def _run(
    settings: Settings,
    ledger: Ledger,
    model: ProgressModel,
    stop: _Stop,
    edits: _Edits,
    previous: Storage | None,
    give_up: GiveUp,
    lease: Lease | None,
) -> Ending:
    timeline, storage, attempt = settings.timeline, settings.storage, settings.attempt
    timeline.mark("driverStarted")
    unless_stopped(storage.check_writable, stop.requested.is_set)
    if previous is not None:
        unless_stopped(lambda: _check_holds_a_run(settings, previous), stop.requested.is_set)
    if settings.job.spec.code is not None:
        install(settings.job.spec.code)
    ledger.claim(lease.about if lease is not None else {})
    if lease is not None:
        lease.start()
    first_steps: set[float] = set()
    aside = Aside()

    def write_timeline() -> None:
        storage.write(f"timeline/attempt-{attempt:04d}.json", timeline.to_bytes())

    def progress(training: TrainingProgress) -> None:
        model.training(training)
        if training.first_step_at is not None and training.first_step_at not in first_steps:
            # Each restart of the training processes has one; what it took to come back can be read off the timeline.
            first_steps.add(training.first_step_at)
            # What evaluation needs is imported while training goes on: seconds that nobody then waits for.
            preload.begin(preload.METRICS_MODULES)
            # The caller is who ends processes that hang, in storage perhaps.
            aside.do("The timeline", write_timeline)

    def silent(found: Silent) -> None:
        helps = "" if settings.ray_address is None else "; if it comes again, raise cluster.head.resources"
        give_up(_badly(ExitCode.RAY_SILENT, Failure.UNRESPONSIVE, f"{found}{helps}"))

    engine = RayEngine(settings.job.spec, settings.ray_address, silent)
    run = Run(
        job=settings.job.metadata.name,
        spec=settings.job.spec,
        storage=storage,
        attempt=attempt,
        previous=previous,
        engine=engine,
        watch=Watch(
            progress=progress,
            say=model.say,
            mark=timeline.mark,
            stop_requested=stop.requested.is_set,
            share=model.share,
            note=model.note,
            bounds=lambda: edits.bounds,
        ),
        publish=ledger.publish,
        workers_evaluate=engine.evaluate if settings.ray_address is not None else None,
    )
    records = run_stages(STAGES, run, ledger, model)
    timeline.mark("stagesDone")
    result = _result(settings, records)
    ledger.publish(RESULT, json.dumps(result, indent=1).encode())
    aside.do("The timeline", write_timeline)
    aside.wait(TIMELINE_LIMIT_S)
    model.finish(_status_result(result, storage), Objective(**result["objective"]))
    return Ending(ExitCode.SUCCEEDED, result=result, report=model.snapshot().report())


def _result(settings: Settings, records: Mapping[str, Record]) -> dict[str, Any]:
    """What result.json holds; artifacts by their full address."""
    report, train, storage = records["report"].output, records["train"].output, settings.storage
    artifacts = {name: redacted(storage.url(path)) for name, path in report["artifacts"].items()}
    return {
        "job": settings.job.metadata.name,
        "attempt": settings.attempt,
        "objective": report["objective"],
        "metrics": report["metrics"],
        # Samples that could not be read, of the last epoch and of the evaluations.
        "skipped": report["skipped"],
        "artifacts": {**artifacts, "result": redacted(storage.url(RESULT))},
        "stages": [
            {
                "name": name,
                "state": record.state,
                "startedAt": record.started_at,
                "finishedAt": record.finished_at,
                "digest": record.digest,
            }
            for name, record in records.items()
        ],
        "training": {
            "epochs": train["epoch"],
            "steps": train["step"],
            "seconds": round(train["seconds"], 3),
            "checkpoint": (train["best"] or train["checkpoint"])["folder"],
        },
    }


def _status_result(result: Mapping[str, Any], storage: Storage) -> Result:
    return Result(
        metrics=dict(result["metrics"]["test"]),
        artifacts=[
            Artifact(name=name, uri=uri, size_bytes=_size(storage, uri)) for name, uri in result["artifacts"].items()
        ],
    )


def _size(storage: Storage, uri: str) -> int | None:
    name = uri.removeprefix(redacted(storage.url())).lstrip("/")
    try:
        return sum(storage.size(file) for file in _files(storage, name))
    except OSError:
        return None


def _files(storage: Storage, name: str) -> list[str]:
    """The file itself, or all those of a folder."""
    inside = [file for entry in storage.names(name) for file in _files(storage, f"{name}/{entry}")]
    return inside or [name]


def _previous(settings: Settings) -> Storage | None:
    named = settings.job.spec.storage.resume_from if settings.job.spec.storage else None
    if named is None:
        return None
    root = settings.storage_root
    return Storage(f"{root.rstrip('/')}/{named}" if root else named)


def _check_holds_a_run(settings: Settings, previous: Storage) -> None:
    if not previous.answered(lambda: latest_attempt(previous)):
        raise UserError(
            f"spec.storage.resumeFrom: {previous.url()} holds no run; "
            f"name an earlier run's folder relative to {settings.storage_root or 'the working directory'}"
        )


def _ending(run: Callable[[], Ending], stop: _Stop) -> Ending:
    """Every way in which a run can end, as an exit code and a sentence."""
    try:
        return run()
    except UserError as error:
        return _badly(ExitCode.REFUSED, Failure.USER_ERROR, str(error))
    except StoppedError as error:
        if stop.superseded:
            return _badly(ExitCode.STOPPED, Failure.STOPPED, stop.superseded)
        kept = "what was done is saved" if error.saved else "what was done since the last save is lost, and done again"
        return _badly(ExitCode.STOPPED, Failure.STOPPED, f"stopped on request; {kept}")
    except SupersededError as error:
        return _badly(ExitCode.STOPPED, Failure.STOPPED, str(error))
    except EngineError as error:
        return _badly(FAILED, error.reason, str(error))
    except StorageAwayError as error:
        return _badly(FAILED, Failure.STORAGE_AWAY, str(error))
    except AttemptTakenError as error:
        return _badly(FAILED, Failure.DRIVER_FAILED, str(error))
    except SystemExit as error:
        if raised_by(error, "ray"):
            # Its answer to a SIGTERM that came while it was starting.
            return _badly(ExitCode.STOPPED, Failure.STOPPED, "stopped on request before training began")
        sentence = f"the job's own code {told(error)}; raise an exception instead"
        return _badly(ExitCode.REFUSED, Failure.USER_ERROR, sentence)
    except MemoryError:
        return _badly(FAILED, Failure.OUT_OF_MEMORY, "the driver ran out of memory: raise spec.cluster.head's limit")
    except Exception as error:
        log.exception("The driver failed")
        place = place_of(error)
        where = f", at {place}" if place else ""
        return _badly(FAILED, Failure.DRIVER_FAILED, f"{type(error).__name__}: {error}{where}")


def _badly(code: int, reason: Failure, message: str) -> Ending:
    return Ending(code, Termination(reason=reason, message=redacted(message)[:_MESSAGE_LIMIT]))


def _confirm_superseded(ledger: Ledger, stop: _Stop) -> None:
    try:
        ledger.check()
    except SupersededError as error:
        stop.supersede(error)
    except Exception as error:
        log.warning("The ledger could not be asked for a later attempt: %s", error)


class _Edits:
    """The worker groups' bounds as they are now, which the spec that an attempt was given may not show."""

    def __init__(self) -> None:
        self.bounds: Sequence[WorkerBounds] = ()

    def hear(self, bounds: Sequence[WorkerBounds]) -> None:
        """The operator tells them; it does so again and again."""
        if bounds != self.bounds:
            log.info("Workers: %s", ", ".join(f"{group.name} {group.min} to {group.max}" for group in bounds))
            self.bounds = bounds


class _Stop:
    """The wish to stop, from a signal or from a later attempt.

    To somebody at a terminal ``say`` says at once that it was heard. From a thread of its own: a handler of signals
    must take no locks, and the main thread may be in Ray for many seconds.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.requested = threading.Event()
        self.superseded = ""
        self._say = say
        self._interrupted = False
        self._over = threading.Event()
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Stop:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        threading.Thread(target=self._listen, name="stop", daemon=True).start()
        return self

    def __exit__(self, *details: object) -> None:
        self._over.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def supersede(self, error: SupersededError) -> None:
        """A later attempt has begun."""
        self.superseded = str(error)
        self.requested.set()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested.is_set():
            os._exit(128 + number)
        self._interrupted = number == signal.SIGINT
        self.requested.set()

    def _listen(self) -> None:
        while not self._over.wait(TICK_S):
            if self._interrupted:
                self._say("stopping; press Ctrl-C again to end at once")
                return


def settings_from_environment(environment: Mapping[str, str]) -> Settings:
    """What the operator says; UserError names a variable that is missing or a manifest that is wrong."""

    def value(name: str) -> str:
        found = environment.get(name)
        if not found:
            raise UserError(f"{name} is not set: scaling-driver runs in pods of the operator; use scalingjob run here")
        return found

    path = Path(value(contract.ENV_SPEC))
    try:
        job = ScalingJob.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no ScalingJob that this version reads: {error}") from error
    return Settings(
        job=job,
        storage=Storage(value(contract.ENV_RUN_DIR)),
        attempt=int(value(contract.ENV_ATTEMPT)),
        storage_root=environment.get(contract.ENV_STORAGE_ROOT),
        ray_address=environment.get(contract.ENV_RAY_ADDRESS),
    )


class Redacting(logging.Formatter):
    """Shows URIs without their secrets, in tracebacks as well."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, or lines, of a record."""
        return redacted(super().format(record))


def main() -> NoReturn:
    """Entry point of the head pod's driver container."""
    from scaling_training.health import HealthServer, PortTakenError  # nobody asks a driver that is no pod

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Redacting("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        HealthServer(contract.PORT_METRICS)
        settings = settings_from_environment(os.environ)
        ending = drive(settings, _shows(os.environ), _leave)
    except UserError as error:
        ending = _badly(ExitCode.REFUSED, Failure.USER_ERROR, str(error))
    except PortTakenError as error:
        ending = _badly(FAILED, Failure.DRIVER_FAILED, str(error))
    _leave(ending)


def _leave(ending: Ending) -> NoReturn:
    """Leave the termination message, and end this process with the exit code."""
    if ending.termination is not None:
        log.error("%s: %s", ending.termination.reason, ending.termination.message)
        _write_termination(ending.termination.model_dump_json(by_alias=True))
    elif ending.report is not None:
        _write_termination(last_words(ending.report))
    sys.stdout.flush()
    sys.stderr.flush()
    # Nothing is left to do, and Python's own ending takes a second over Ray's and torch's threads.
    os._exit(int(ending.code))


def _shows(environment: Mapping[str, str]) -> list[ShowMaker]:
    from scaling_training.progress.lines import LineShow

    def lines(model: ProgressModel, ears: Ears) -> Show:
        return LineShow(model, lambda line: log.info("%s", line))

    url = environment.get(contract.ENV_PROGRESS_URL)
    if not url:
        return [lines]
    from scaling_training.progress.https import Endpoint, HttpsShow

    endpoint = Endpoint(
        url=url,
        ca=Path(environment[contract.ENV_PROGRESS_CA]),
        token=Path(environment[contract.ENV_PROGRESS_TOKEN]),
    )

    def https(model: ProgressModel, ears: Ears) -> Show:
        return HttpsShow(model, endpoint, ears)

    return [lines, https]


def _write_termination(message: str) -> None:
    try:
        Path(contract.TERMINATION_LOG).write_text(message)
    except OSError as error:
        log.warning("The termination message could not be written: %s", error)


if __name__ == "__main__":
    main()
