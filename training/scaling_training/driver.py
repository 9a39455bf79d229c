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
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from scaling_api import driver as contract
from scaling_api.driver import ExitCode, WorkerBounds
from scaling_api.reasons import Failure
from scaling_api.redaction import redacted
from scaling_training.aside import Aside
from scaling_training.code import install
from scaling_training.ending import FAILED, Ending, badly, ending_of, leave
from scaling_training.engine.launch import RayEngine
from scaling_training.engine.ray_health import Silent
from scaling_training.engine.run import Watch
from scaling_training.errors import UserError
from scaling_training.evaluate.metrics import Objective
from scaling_training.lease import Lease
from scaling_training.ledger import Ledger, latest_attempt
from scaling_training.progress import ProgressModel
from scaling_training.progress.show import Ears, Show
from scaling_training.progress.stall import StallWatch
from scaling_training.result import RESULT, result_of, status_result
from scaling_training.settings import Settings, settings_from_environment
from scaling_training.stages import STAGES
from scaling_training.stages.base import Run
from scaling_training.stages.pipeline import run_stages
from scaling_training.stages.stopping import unless_stopped
from scaling_training.stop import Stop, confirm_superseded
from scaling_training.storage import Storage
from scaling_training.train import preload
from scaling_training.train.types import TrainingProgress

log = logging.getLogger("scaling_training.driver")

# How long a run that has its result waits for storage to take the timeline.
TIMELINE_LIMIT_S = 30.0

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
    stop = Stop(model.say)
    previous = _previous(settings)
    ledger = Ledger(settings.storage, attempt=settings.attempt, previous=previous)
    edits = _Edits()
    ears = Ears(superseded=lambda: confirm_superseded(ledger, stop), bounds=edits.hear)
    running = [*(make(model, ears) for make in shows), StallWatch(model)]
    lease = None if settings.ray_address else Lease(settings.storage, ledger, stop.supersede)
    with stop:
        for show in running:
            show.start()
        try:
            ending = ending_of(
                lambda: _run(settings, ledger, model, stop, edits, previous, give_up, lease), lambda: stop.superseded
            )
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
    stop: Stop,
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
        give_up(badly(ExitCode.RAY_SILENT, Failure.UNRESPONSIVE, f"{found}{helps}"))

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
    result = result_of(settings, records)
    ledger.publish(RESULT, json.dumps(result, indent=1).encode())
    aside.do("The timeline", write_timeline)
    aside.wait(TIMELINE_LIMIT_S)
    model.finish(status_result(result, storage), Objective(**result["objective"]))
    return Ending(ExitCode.SUCCEEDED, result=result, report=model.snapshot().report())


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


class _Edits:
    """The worker groups' bounds as they are now, which the spec that an attempt was given may not show."""

    def __init__(self) -> None:
        self.bounds: Sequence[WorkerBounds] = ()

    def hear(self, bounds: Sequence[WorkerBounds]) -> None:
        """The operator tells them; it does so again and again."""
        if bounds != self.bounds:
            log.info("Workers: %s", ", ".join(f"{group.name} {group.min} to {group.max}" for group in bounds))
            self.bounds = bounds


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
        ending = drive(settings, _shows(os.environ), leave)
    except UserError as error:
        ending = badly(ExitCode.REFUSED, Failure.USER_ERROR, str(error))
    except PortTakenError as error:
        ending = badly(FAILED, Failure.DRIVER_FAILED, str(error))
    leave(ending)


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


if __name__ == "__main__":
    main()
