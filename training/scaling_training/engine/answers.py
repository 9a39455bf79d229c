"""Waiting for what the training processes answer while their group starts, but not for ever.

From then on the watchdog sees to it that one that hangs is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError

from scaling_training.engine.errors import NoAnswerError

# On a cold node, over a slow disk, torch takes minutes to import; less than a collective may take, which is when those
# that wait for a missing one would give up.
START_LIMIT_S = 480.0


def answers(asked: Sequence[Any]) -> list[Any]:
    """What the processes answered, by rank; ``asked`` holds a reference for each.

    Raises what one of them raised, as soon as it did, and NoAnswerError, which names those that have said nothing
    within START_LIMIT_S.
    """
    try:
        found: list[Any] = ray.get(list(asked), timeout=START_LIMIT_S)
        return found
    except GetTimeoutError as error:
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0)
        silent = [rank for rank, reference in enumerate(asked) if reference not in done]
        raise NoAnswerError(silent, START_LIMIT_S) from error
