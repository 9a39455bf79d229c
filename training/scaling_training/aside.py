"""Work that nobody may have to wait for: a word to storage, say, which may hang."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from scaling_api.redaction import redacted

log = logging.getLogger(__name__)


class Aside:
    """Does one piece of work after the other, on threads that end with the process. Called by one thread at a time."""

    def __init__(self) -> None:
        self._last: threading.Thread | None = None

    def do(self, what: str, work: Callable[[], None]) -> None:
        """Have it done once what was given before is done; returns at once.

        ``what`` it saves, which the log names when storage refuses.
        """
        before = self._last

        def run() -> None:
            if before is not None:
                before.join()
            try:
                work()
            except Exception as error:
                # Each kind of storage has errors of its own, and a thread's last words are not redacted.
                log.error("%s could not be saved: %s", what, redacted(str(error) or type(error).__name__))

        self._last = threading.Thread(target=run, name=what, daemon=True)
        self._last.start()

    def wait(self, timeout_s: float) -> None:
        """Wait until all of it is done, for so long at most."""
        if self._last is not None:
            self._last.join(timeout_s)
