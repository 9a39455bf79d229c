"""How a training process says what it is doing, so that one that hangs can be told from one that waits for it."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Phase(IntEnum):
    """What a process does after ``step`` steps are done, in the order in which it gets there."""

    START = 0  # builds the model, reads the checkpoint, joins the others
    VALIDATION = 1
    SAVE = 2
    WAIT = 3  # waits for what the others do before there is anything for it to do
    DATA = 4  # waits for the next step's samples
    COMPILE = 5  # computes what torch.compile meets for the first time, and waits for the others
    STEP = 6  # computes, and waits for the others
    END = 7  # nothing is left to do


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What one process did last."""

    step: int  # optimizer steps done
    phase: Phase
    median_step_s: float | None  # all micro-batches of a step together; None before there were two
    longest_s: float  # the longest validation so far; 0 before there was one
    expected_s: float = 0.0  # that the phase takes, as the process was told; 0 when it was not


class Beat(Protocol):
    """How a process says what it does."""

    def __call__(self, phase: Phase, step: int, *, expected_s: float = 0.0) -> None:
        """The process enters this phase, ``step`` steps done, for about so many seconds if that is known.

        Returns at once.
        """


def silent(phase: Phase, step: int, *, expected_s: float = 0.0) -> None:
    """For a process that nobody watches."""


class Pulse:
    """Keeps the last beat. `beat` takes a microsecond; `read` may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._step = 0
        self._phase = Phase.START
        self._at = time.monotonic()
        self._step_began: float | None = None
        self._steps: deque[float] = deque(maxlen=64)
        self._longest = 0.0
        self._expected = 0.0

    def beat(self, phase: Phase, step: int, *, expected_s: float = 0.0, now: float | None = None) -> None:
        """See `Beat`; ``now`` is a monotonic second."""
        now = time.monotonic() if now is None else now
        with self._lock:
            if self._phase is Phase.VALIDATION:
                self._longest = max(self._longest, now - self._at)
            if step != self._step:
                # A step lasts from its first micro-batch's DATA to whatever comes after its last one's STEP.
                if self._phase is Phase.STEP and self._step_began is not None:
                    self._steps.append(now - self._step_began)
                self._step_began = None
            if phase is Phase.DATA and self._step_began is None:
                self._step_began = now
            self._step, self._phase, self._expected, self._at = step, phase, expected_s, now

    def read(self) -> Heartbeat:
        """The last beat."""
        with self._lock:
            # The first step, which pays for what the others do not, is outvoted by the median.
            median = statistics.median(self._steps) if len(self._steps) >= 2 else None
            return Heartbeat(self._step, self._phase, median, self._longest, self._expected)
