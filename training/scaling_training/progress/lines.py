"""Progress in a log: a line when something begins, ends or goes wrong, one per epoch, and one per interval."""

from __future__ import annotations

import time
from collections.abc import Callable

from scaling_training.clock import duration
from scaling_training.progress.model import ProgressModel, Snapshot, Stage, scores
from scaling_training.progress.show import ThreadedShow
from scaling_training.train.types import TrainingProgress

INTERVAL_S = 10.0


class LineShow(ThreadedShow):
    """Writes lines by ``write``, which gets them without a line break."""

    def __init__(self, model: ProgressModel, write: Callable[[str], None], interval_s: float = INTERVAL_S) -> None:
        super().__init__(model, name="progress-lines")
        self._write = write
        self._interval_s = interval_s
        self._stages: dict[str, str] = {}
        self._notes: set[tuple[str, str]] = set()
        self._message = ""
        self._epoch: int | None = None
        self._wrote_at = time.monotonic()

    def run(self) -> None:
        """Until the run ends."""
        revision = 0
        while True:
            snapshot = self.model.wait(revision, timeout_s=1.0)
            revision = snapshot.revision
            self._show(snapshot)
            if snapshot.ended or self.closing.is_set():
                return

    def _show(self, snapshot: Snapshot) -> None:
        for stage in snapshot.stages:
            if self._stages.get(stage.name, "Pending") != stage.state:
                self._stages[stage.name] = stage.state
                self._line(_stage_line(stage))
            for note in stage.notes:
                if (stage.name, note) not in self._notes:
                    self._notes.add((stage.name, note))
                    self._line(note)
        if snapshot.message != self._message:
            self._message = snapshot.message
            if self._message:
                self._line(self._message)
        current = snapshot.current
        if current is not None and current.state == "Running" and current.share is not None:
            if time.monotonic() - self._wrote_at >= self._interval_s:
                self._line(f"stage {current.name}: {100.0 * current.share:.0f}% done")
            return
        training = snapshot.training
        if training is None or self._stages.get("train") != "Running" or training.first_step_at is None:
            return
        new_epoch = training.epoch != self._epoch
        if new_epoch or time.monotonic() - self._wrote_at >= self._interval_s:
            self._epoch = training.epoch
            self._line(training_line(training))

    def _line(self, text: str) -> None:
        self._wrote_at = time.monotonic()
        self._write(text)


def training_line(training: TrainingProgress) -> str:
    """epoch 3/10, step 84/280 (30%), 1,234 samples/s, 12s left, loss 0.123, validation accuracy 0.9712"""
    parts = [
        f"epoch {training.epoch}/{training.epochs}, step {training.step}/{training.steps} ({training.percent:.0f}%)"
    ]
    if training.samples_per_second is not None:
        parts.append(f"{training.samples_per_second:,.0f} samples/s")
    if training.eta_s:
        parts.append(f"{duration(training.eta_s)} left")
    return ", ".join([*parts, *scores(training)])


def _stage_line(stage: Stage) -> str:
    words = {"Running": "begins", "Succeeded": "is done", "Failed": "failed", "Reused": "was done before and is reused"}
    text = f"stage {stage.name} {words.get(stage.state, stage.state)}"
    return f"{text}: {stage.message}" if stage.message else text
