"""Where the training thread of a process and the driver meet.

The module lives in the worker's process. The training thread leaves its latest progress here; the driver takes
it by a call to the worker's actor and, on the same way back, leaves its wish to stop. So it takes no actor of
its own, a process that would cost a second of start-up and a hundred megabytes, and nothing ever waits: each
progress is complete in itself, and one that is overwritten does no harm.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from dataclasses import dataclass, field

from scaling_training.train.types import TrainingProgress
from scaling_training.world.heartbeat import Heartbeat, Pulse


@dataclass(slots=True)
class Letter:
    """What the driver gets: what the process is doing, and when it passed which point (Unix time).

    Rank 0's holds the latest progress besides, and all that it warned of.
    """

    progress: TrainingProgress | None = None
    marks: dict[str, float] = field(default_factory=dict)
    heartbeat: Heartbeat | None = None
    warnings: list[str] = field(default_factory=list)


# Each letter holds them all, because any may be lost.
_MOST_WARNINGS = 50

_lock = threading.Lock()
_letter = Letter()
_stop = threading.Event()
_pulse = Pulse()

beat = _pulse.beat


def mark(name: str, at: float) -> None:
    """Note when this process passed a point."""
    with _lock:
        _letter.marks.setdefault(name, at)


def post(progress: TrainingProgress) -> None:
    """Leave the latest progress; returns at once."""
    with _lock:
        _letter.progress = progress


class Warnings(logging.Handler):
    """Leaves what is warned of for the driver's log: that of a training process is read by nobody."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the sentence; of a run that warns without end, the first ones."""
        with _lock:
            if len(_letter.warnings) < _MOST_WARNINGS:
                _letter.warnings.append(record.getMessage())


def exchange(stop: bool) -> Letter:
    """The driver's side: take what is there, and say whether training shall stop."""
    if stop:
        _stop.set()
    with _lock:
        return Letter(_letter.progress, dict(_letter.marks), _pulse.read(), list(_letter.warnings))


def stop_requested() -> bool:
    """Whether the driver wants training to stop; returns at once."""
    return _stop.is_set()


def stacks() -> str:
    """What every thread of this process is doing, for whoever has to find out why it hangs."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
