"""Those who show a run's progress: what they have in common."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from scaling_api.driver import WorkerBounds
from scaling_training.progress.model import ProgressModel


@dataclass(frozen=True, slots=True)
class Ears:
    """Whom a show tells what it hears from those that it shows a run to; called from the show's thread."""

    superseded: Callable[[], None]  # another pod is taken for the current head
    bounds: Callable[[Sequence[WorkerBounds]], None]  # of the worker groups, as they are now


class Show(Protocol):
    """Somebody who shows a run. `close` shows the last state and returns within seconds."""

    def start(self) -> None:
        """Begin to show."""

    def close(self) -> None:
        """Show the end."""


class ThreadedShow:
    """A show on a daemon thread of its own: `run` goes on until the model has ended or `closing` is set."""

    def __init__(self, model: ProgressModel, *, name: str) -> None:
        self.model = model
        self.closing = threading.Event()
        self._thread = threading.Thread(target=self.run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to show."""
        self._thread.start()

    def close(self, timeout_s: float = 10.0) -> None:
        """Let the thread show the last state; give up on it after ``timeout_s``."""
        self.closing.set()
        self.model.say("")
        self._thread.join(timeout_s)

    def run(self) -> None:
        """What the thread does."""
        raise NotImplementedError
