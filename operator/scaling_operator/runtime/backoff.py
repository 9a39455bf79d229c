"""Growing, jittered pauses between attempts."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Pauses that double from `base_s` to `max_s`, each shortened at random by up to half.

    The jitter keeps watches that one server restart has cut from coming back all at once.
    """

    def __init__(
        self, *, base_s: float = 0.2, max_s: float = 30.0, random_unit: Callable[[], float] = random.random
    ) -> None:
        self._base_s = base_s
        self._max_s = max_s
        self._random_unit = random_unit
        self._attempts = 0

    def next_s(self) -> float:
        """The length of the next pause."""
        pause_s = min(self._max_s, self._base_s * 2.0 ** min(self._attempts, 40))
        self._attempts += 1
        return pause_s * (1 - self._random_unit() / 2)

    def reset(self) -> None:
        """Start again from the shortest pause."""
        self._attempts = 0
