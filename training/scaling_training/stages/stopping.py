"""Work that a stop need not wait for.

Much of what a stage does cannot be asked to stop: a factory of the user's that opens a data set, an item that takes
long, a storage that does not answer. A pod that is to go has 120 s. So such work runs on a thread of its own, which
is left behind at a stop and ends with the process; it must write nothing that another attempt reads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from scaling_training.engine.run import TICK_S, StoppedError

Result = TypeVar("Result")


def unless_stopped(work: Callable[[], Result], stop_requested: Callable[[], bool]) -> Result:
    """What ``work`` returns or raises; StoppedError as soon as a stop is requested while it is under way."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="stage", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(TICK_S)
        if thread.is_alive() and stop_requested():
            raise StoppedError
    if errors:
        raise errors[0]
    return results[0]
