"""The wish to stop: from a signal, or because a later attempt has begun."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from scaling_training.engine.run import TICK_S
from scaling_training.ledger import Ledger, SupersededError

log = logging.getLogger(__name__)


class Stop:
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

    def __enter__(self) -> Stop:
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


def confirm_superseded(ledger: Ledger, stop: Stop) -> None:
    """Stop if a later attempt has begun; whoever says so may be wrong, and the ledger knows."""
    try:
        ledger.check()
    except SupersededError as error:
        stop.supersede(error)
    except Exception as error:
        log.warning("The ledger could not be asked for a later attempt: %s", error)
