"""The state of a run as people see it, in the terms of the ScalingJob's status."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from scaling_api.driver import ProgressReport
from scaling_api.metrics import label, shown
from scaling_api.redaction import redacted
from scaling_api.status import Objective as Score
from scaling_api.status import Progress, Result, StageStatus
from scaling_training.clock import duration, utc
from scaling_training.evaluate.metrics import Objective, validation_key
from scaling_training.train.types import TrainingProgress

StageState = Literal["Pending", "Running", "Succeeded", "Failed", "Reused"]

MAX_MESSAGE = 1024


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage as far as it has come."""

    name: str
    state: StageState = "Pending"
    started_at: str | None = None
    finished_at: str | None = None
    message: str = ""
    share: float | None = None  # how much of it is done, 0 to 1; of training the snapshot says more
    notes: tuple[str, ...] = ()  # what was found or taken, to be read once


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The run at one moment. ``revision`` grows with each change, ``landmark`` with those that nobody should miss."""

    job: str
    attempt: int
    stages: tuple[Stage, ...]
    training: TrainingProgress | None = None
    first_step_at: float | None = None
    result: Result | None = None
    score: Score | None = None
    accuracy: float | None = None
    message: str = ""
    stalled_since: float | None = None  # Unix time; None while something advances
    ended: bool = False
    revision: int = 0
    landmark: int = 0

    @property
    def current(self) -> Stage | None:
        """The stage at work, else the last that began."""
        begun = [stage for stage in self.stages if stage.state != "Pending"]
        running = [stage for stage in begun if stage.state == "Running"]
        candidates = running or begun
        return candidates[-1] if candidates else None

    def report(self) -> ProgressReport:
        """The body for the operator."""
        return ProgressReport(
            attempt=self.attempt,
            reported_attempt=self.attempt,
            progress=self._progress(),
            stages=[
                StageStatus(
                    name=stage.name,
                    state=stage.state,
                    started_at=stage.started_at,
                    finished_at=stage.finished_at,
                    message=(stage.message or "; ".join(stage.notes))[:MAX_MESSAGE] or None,
                )
                for stage in map(self._settled, self.stages)
            ],
            objective=self.score,
            accuracy=None if self.accuracy is None else f"{self.accuracy:.4f}",
            result=self.result,
        )

    def _settled(self, stage: Stage) -> Stage:
        """A stage that is at work when the run ends (it was stopped) is the next attempt's to do."""
        return replace(stage, state="Pending", message="") if self.ended and stage.state == "Running" else stage

    def _progress(self) -> Progress | None:
        stage = self.current
        if stage is None:
            return None
        at_work = stage.state == "Running" and not self.ended
        now = utc()
        first_step_at = None if self.first_step_at is None else utc(self.first_step_at)
        stalled_since = utc(self.stalled_since) if at_work and self.stalled_since is not None else None
        if stage.name != "train" or self.training is None:
            done = stage.state in ("Succeeded", "Reused")
            percent = 100.0 if done else round(100.0 * (stage.share or 0.0), 2)
            far = f" {percent:.0f}%" if stage.share is not None and not done else ""
            summary = "done" if done and self.ended else f"{stage.name}{far}" if done or at_work else "stopped"
            return Progress(
                stage=stage.name,
                percent=percent,
                summary=summary,
                first_step_at=first_step_at,
                stalled_since=stalled_since,
                updated_at=now,
            )
        training = self.training
        eta_s = training.eta_s if at_work and training.eta_s is not None and math.isfinite(training.eta_s) else None
        left = f" ({duration(eta_s)} left)" if eta_s else ""
        return Progress(
            stage=stage.name,
            percent=round(min(100.0, training.percent), 2),
            epoch=training.epoch,
            epochs=training.epochs,
            step=training.step,
            steps=training.steps,
            samples_per_second=_rounded(training.samples_per_second),
            eta_seconds=None if eta_s is None else max(0, round(eta_s)),
            workers=training.workers,
            metrics={
                name: round(value, 6) for name, value in list(training.metrics.items())[:32] if math.isfinite(value)
            },
            checkpoint=training.checkpoint,
            first_step_at=first_step_at,
            stalled_since=stalled_since,
            summary=f"{training.percent:.0f}%{left}"
            if at_work or stage.state == "Succeeded"
            else _stopped_at(training),
            updated_at=now,
        )


@dataclass(slots=True)
class ProgressModel:
    """The one place that a run's state is written to; any thread may write and read."""

    job: str
    attempt: int
    stages: Sequence[str]
    _snapshot: Snapshot = field(init=False)
    _changed: threading.Condition = field(init=False, default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._snapshot = Snapshot(self.job, self.attempt, tuple(Stage(name) for name in self.stages))

    def snapshot(self) -> Snapshot:
        """The latest state."""
        return self._snapshot

    def wait(self, after: int, timeout_s: float, *, landmarks: bool = False) -> Snapshot:
        """The latest state, as soon as its revision (or landmark) is beyond ``after``, or when time is up."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._snapshot.ended or (self._snapshot.landmark if landmarks else self._snapshot.revision) > after
                ),
                timeout_s,
            )
            return self._snapshot

    def stage_started(self, name: str) -> None:
        """A stage is at work."""
        self._set_stage(name, state="Running", started_at=utc(), finished_at=None, message="", share=None, notes=())

    def stage_ended(
        self, name: str, state: StageState, *, message: str = "", started_at: str = "", finished_at: str = ""
    ) -> None:
        """A stage has ended; times default to what is known and to now."""
        known = next(stage for stage in self._snapshot.stages if stage.name == name)
        self._set_stage(
            name,
            state=state,
            started_at=started_at or known.started_at or utc(),
            finished_at=finished_at or utc(),
            message=message,
        )

    def training(self, progress: TrainingProgress) -> None:
        """Training has come further."""
        validated = {name: value for name, value in progress.metrics.items() if name.startswith("val")}
        first_step_at = self._snapshot.first_step_at or progress.first_step_at
        first = first_step_at is not None and self._snapshot.first_step_at is None
        self._change(
            landmark=first,
            training=progress,
            first_step_at=first_step_at,
            **self._scored(progress.objective, validated, "validation"),
        )

    def share(self, done: float) -> None:
        """So much of the stage at work is done, from 0 to 1; for stages other than training."""
        current = self._snapshot.current
        if current is not None and current.state == "Running":
            self._set_stage(current.name, landmark=False, share=done)

    def say(self, message: str) -> None:
        """What is waited for, or went wrong and is being mended; empty when all is well."""
        message = redacted(message)
        current = self._snapshot.current
        if message == self._snapshot.message:
            return
        self._change(landmark=bool(message), message=message)
        if current is not None and current.state == "Running":
            self._set_stage(current.name, message=message)

    def stalled(self, since: float | None) -> None:
        """Since this Unix time nothing has advanced; None: something does."""
        if since != self._snapshot.stalled_since:
            self._change(landmark=True, stalled_since=since)

    def note(self, sentence: str) -> None:
        """What the stage at work, or the first before it begins, found or took, to be read by its user; it stays."""
        sentence, current = redacted(sentence), self._snapshot.current or self._snapshot.stages[0]
        if sentence not in current.notes:
            self._set_stage(current.name, notes=(*current.notes, sentence))

    def finish(self, result: Result | None, objective: Objective | None = None) -> None:
        """The run has ended; ``objective`` says which of the result's metrics is its score."""
        metrics = {} if result is None else {validation_key(name): value for name, value in result.metrics.items()}
        self._change(
            landmark=True,
            result=result,
            ended=True,
            message="",
            **self._scored(objective, metrics, "test"),
        )

    def _scored(
        self, objective: Objective | None, metrics: Mapping[str, float], split: Literal["validation", "test"]
    ) -> dict[str, Any]:
        """What changes of a snapshot by these metrics, which have the names of `validation_key`."""
        score, accuracy = self._snapshot.score, metrics.get("valAccuracy", self._snapshot.accuracy)
        if objective is not None and metrics:
            value = metrics.get(validation_key(objective.metric), math.nan)
            score = Score(
                metric=objective.metric,
                mode=objective.mode,
                split=split,
                value=round(value, 6) if math.isfinite(value) else None,
                summary=f"{objective.metric} {shown(value)}",
            )
        return {"score": score, "accuracy": accuracy}

    def _set_stage(self, name: str, *, landmark: bool = True, **changes: object) -> None:
        stages = tuple(
            replace(stage, **changes) if stage.name == name else stage  # type: ignore[arg-type]
            for stage in self._snapshot.stages
        )
        self._change(landmark=landmark, stages=stages)

    def _change(self, *, landmark: bool, **changes: object) -> None:
        with self._changed:
            self._snapshot = replace(
                self._snapshot,
                revision=self._snapshot.revision + 1,
                landmark=self._snapshot.landmark + landmark,
                **changes,  # type: ignore[arg-type]
            )
            self._changed.notify_all()


def scores(training: TrainingProgress) -> list[str]:
    """The training loss and, after a validation, the objective, in words; as far as they are known."""
    metric = training.objective.metric if training.objective is not None else "loss"
    wanted = {"trainLoss": "loss", validation_key(metric): f"validation {label(metric)}"}
    return [f"{said} {shown(training.metrics[name])}" for name, said in wanted.items() if name in training.metrics]


def _stopped_at(training: TrainingProgress) -> str:
    return f"stopped at {training.percent:.0f}%"


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 1)
