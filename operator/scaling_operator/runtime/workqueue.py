"""A queue of keys that need attention, with the guarantees of client-go's work queue.

A key waits at most once, however often it is added; it is never processed by two workers at once; added while
it is processed, it is processed once more afterwards. So a worker that reads the current state after `get`
misses nothing, and a burst of events about one object costs one look at it.

Single-threaded by design: all methods but `get` and `drained` are synchronous and belong to the loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from . import metrics
from .ratelimit import RetryDelays

K = TypeVar("K", bound=Hashable)


class QueueShutDown(Exception):
    """The queue hands out nothing any more: the signal for workers to end."""


class WorkQueue(Generic[K]):
    """FIFO of distinct keys with delays and retries; `name` labels its metrics."""

    def __init__(self, name: str, *, delays: RetryDelays | None = None) -> None:
        self.name = name
        self._loop = asyncio.get_running_loop()
        self._delays = delays or RetryDelays(clock=self._loop.time)
        # Every waiting key with the time it was added, in order; `_again` holds keys that are to be processed
        # once more when their present run is done.
        self._waiting: OrderedDict[K, float] = OrderedDict()
        self._processing: dict[K, float] = {}
        self._again: dict[K, float] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._getters: deque[asyncio.Future[None]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        self._shut_down = False

        self._adds = metrics.QUEUE_ADDS.labels(name)
        self._retries = metrics.QUEUE_RETRIES.labels(name)
        self._wait_seconds = metrics.QUEUE_WAIT.labels(name)
        self._work_seconds = metrics.QUEUE_WORK.labels(name)
        # Computed when scraped, so that an idle queue costs nothing.
        metrics.QUEUE_DEPTH.labels(name).set_function(lambda: len(self._waiting))
        metrics.QUEUE_UNFINISHED.labels(name).set_function(self.unfinished_work_s)
        metrics.QUEUE_LONGEST.labels(name).set_function(self.longest_work_s)

    def __len__(self) -> int:
        """How many keys wait to be handed out (delayed ones and those in progress not counted)."""
        return len(self._waiting)

    @property
    def is_shut_down(self) -> bool:
        """Whether `shutdown` was called."""
        return self._shut_down

    def add(self, key: K) -> None:
        """Have `key` processed as soon as a worker is free. Ignored after shutdown."""
        if self._shut_down or key in self._waiting or key in self._again:
            return
        self._adds.inc()
        if key in self._processing:
            self._again[key] = self._loop.time()
        else:
            self._enqueue(key, self._loop.time())

    def add_after(self, key: K, delay_s: float) -> None:
        """Add `key` in `delay_s` seconds; of several delays for one key the earliest counts."""
        if self._shut_down:
            return
        if delay_s <= 0:
            self.add(key)
            return
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= self._loop.time() + delay_s:
                return
            timer.cancel()
        self._timers[key] = self._loop.call_later(delay_s, self._on_timer, key)

    def add_rate_limited(self, key: K) -> float:
        """Add `key` after a pause that grows with its failures; returns the seconds."""
        self._retries.inc()
        delay_s = self._delays.next_delay_s(key)
        self.add_after(key, delay_s)
        return delay_s

    def retries(self, key: K) -> int:
        """How often `key` was added rate-limited since it was last forgotten."""
        return self._delays.failures(key)

    def forget(self, key: K) -> None:
        """Count the failures of `key` from zero again."""
        self._delays.forget(key)

    async def get(self) -> K:
        """The next key, now being processed until `done`. Raises QueueShutDown after shutdown."""
        while not self._waiting and not self._shut_down:
            getter: asyncio.Future[None] = self._loop.create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                # A wake-up that this worker can no longer use belongs to the next one.
                if not getter.cancelled():
                    self._wake_one()
                raise
        if self._shut_down:
            raise QueueShutDown
        key, added_at = self._waiting.popitem(last=False)
        now = self._loop.time()
        self._wait_seconds.observe(now - added_at)
        self._processing[key] = now
        self._idle.clear()
        return key

    def done(self, key: K) -> None:
        """Processing of `key` has ended. Raises KeyError if it was not handed out."""
        self._work_seconds.observe(self._loop.time() - self._processing.pop(key))
        added_at = self._again.pop(key, None)
        if added_at is not None and not self._shut_down:
            self._enqueue(key, added_at)
        if not self._processing:
            self._idle.set()

    def shutdown(self) -> None:
        """Hand out and accept nothing more; what waits is dropped, since a successor looks at everything."""
        self._shut_down = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._waiting.clear()
        self._again.clear()
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)

    async def drained(self) -> None:
        """Wait until nothing is being processed."""
        await self._idle.wait()

    def unfinished_work_s(self) -> float:
        """Sum of the ages of everything in progress."""
        now = self._loop.time()
        return sum(now - started for started in self._processing.values())

    def longest_work_s(self) -> float:
        """Age of the oldest work in progress, 0 when there is none."""
        now = self._loop.time()
        return max((now - started for started in self._processing.values()), default=0.0)

    def _on_timer(self, key: K) -> None:
        del self._timers[key]
        self.add(key)

    def _enqueue(self, key: K, added_at: float) -> None:
        self._waiting[key] = added_at
        self._wake_one()

    def _wake_one(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return
