"""Waiting for what the training processes answer while their group starts, but not for ever.

From then on the watchdog sees to it that one that hangs is found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

from scaling_training.engine.errors import GivenUpError, NoAnswerError

# On a cold node, over a slow disk, torch takes minutes to import; less than a collective may take, which is when those
# that wait for a missing one would give up.
START_LIMIT_S = 480.0
# How soon the wait ends once it is given up: whoever gave up leaves Ray, which may end a process with a thread in it.
LOOK_S = 0.5


def answers(asked: Sequence[Any], *, given_up: Callable[[], bool]) -> list[Any]:
    """What the processes answered, by rank; ``asked`` holds a reference for each, and at least one.

    Raises what one of them raised, as soon as it did, NoAnswerError, which names those that have said nothing
    within START_LIMIT_S, and GivenUpError once nobody waits for the group any more.
    """
    deadline = time.monotonic() + START_LIMIT_S
    found: dict[Any, Any] = {}
    waiting = list(asked)
    while True:
        done, waiting = ray.wait(waiting, timeout=LOOK_S)
        found.update(zip(done, ray.get(done), strict=True))
        if not waiting:
            return [found[reference] for reference in asked]
        if given_up():
            raise GivenUpError
        if time.monotonic() >= deadline:
            silent = [rank for rank, reference in enumerate(asked) if reference not in found]
            raise NoAnswerError(silent, START_LIMIT_S)
