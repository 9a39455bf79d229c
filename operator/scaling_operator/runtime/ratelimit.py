"""Rates: a token bucket for requests, and the retry delays of a work queue.

Both compute with an injected clock, so their tests need no waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable


class TokenBucket:
    """Allows `rate` acquisitions per second on average and `burst` at once."""

    def __init__(self, rate: float, *, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = burst
        self._at = clock()

    def reserve(self) -> float:
        """Take a token, perhaps a future one, and return the seconds until it may be used."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - 1
        self._at = now
        return max(0.0, -self._tokens / self._rate)

    async def acquire(self) -> None:
        """Wait for a token; callers get theirs in the order in which they asked."""
        delay_s = self.reserve()
        if delay_s > 0:
            await asyncio.sleep(delay_s)


class RetryDelays:
    """How long a failed key waits: doubling per key from `base_s` to `max_s`, and a bucket over all keys.

    The bucket (10 per second, 100 at once) keeps a fault that hits every key from becoming a storm.
    """

    def __init__(
        self,
        *,
        base_s: float = 0.005,
        max_s: float = 60.0,
        rate: float = 10.0,
        burst: float = 100.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base_s = base_s
        self._max_s = max_s
        self._bucket = TokenBucket(rate, burst=burst, clock=clock)
        self._failures: dict[Hashable, int] = {}

    def next_delay_s(self, key: Hashable) -> float:
        """Count one more failure of `key` and return how long it has to wait."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # The exponent is bounded because 2.0**n overflows long before a broken key is given up.
        delay_s = min(self._max_s, self._base_s * 2.0 ** min(failures, 40))
        return max(delay_s, self._bucket.reserve())

    def failures(self, key: Hashable) -> int:
        """How often `key` has failed since it was last forgotten."""
        return self._failures.get(key, 0)

    def forget(self, key: Hashable) -> None:
        """`key` is well again: its next failure waits the shortest time."""
        self._failures.pop(key, None)
