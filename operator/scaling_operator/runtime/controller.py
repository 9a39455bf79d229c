"""Runs a reconcile function over the keys of a queue, level-triggered.

A reconcile gets a key and nothing of what happened; it looks at the present and returns when it wants to look
again. If it raises, the key comes back after a growing pause, so no failure is final and none is hot. How the
failure is logged depends on its kind: lost races are everyday, API errors are a line, everything else is a
bug and brings its traceback. Each is logged once, here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from . import logs, metrics
from .errors import AlreadyExistsError, ApiError, ConflictError
from .objects import Key
from .tracker import WriteTracker
from .workqueue import QueueShutDown, WorkQueue

logger = logging.getLogger(__name__)

WORKERS = 4
RECONCILE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Result:
    """How a reconcile ended: look again in `requeue_after_s` seconds, or (None) only when something changes."""

    requeue_after_s: float | None = None


Reconcile: TypeAlias = Callable[[Key], Awaitable[Result]]


def _log_fields(key: Key) -> Mapping[str, Any]:
    return {"namespace": key.namespace, "name": key.name}


class Controller:
    """`workers` tasks that take keys from `queue` and call `reconcile`, never twice at once for one key.

    With a `tracker`, a key whose own last writes are not in the caches yet is put off. `log_fields` says what
    every log record written during a reconcile carries.
    """

    def __init__(
        self,
        name: str,
        reconcile: Reconcile,
        queue: WorkQueue[Key],
        *,
        workers: int = WORKERS,
        reconcile_timeout_s: float = RECONCILE_TIMEOUT_S,
        tracker: WriteTracker[Key] | None = None,
        log_fields: Callable[[Key], Mapping[str, Any]] = _log_fields,
    ) -> None:
        self.name = name
        self.queue = queue
        self._reconcile = reconcile
        self._workers = workers
        self._reconcile_timeout_s = reconcile_timeout_s
        self._tracker = tracker
        self._log_fields = log_fields
        self._results = {
            result: metrics.RECONCILES.labels(name, result) for result in ("success", "requeue_after", "error")
        }
        self._errors = metrics.RECONCILE_ERRORS.labels(name)
        self._seconds = metrics.RECONCILE_SECONDS.labels(name)
        self._active = metrics.ACTIVE_WORKERS.labels(name)
        metrics.MAX_WORKERS.labels(name).set(workers)

    async def run(self) -> None:
        """Work until the queue is shut down (then every started reconcile ends first) or until cancelled."""
        async with asyncio.TaskGroup() as group:
            for index in range(self._workers):
                group.create_task(self._work(), name=f"{self.name}-worker-{index}")

    async def _work(self) -> None:
        queue = self.queue
        while True:
            try:
                key = await queue.get()
            except QueueShutDown:
                return
            try:
                wait_s = self._tracker.wait_s(key) if self._tracker is not None else 0.0
                if wait_s > 0:
                    queue.add_after(key, wait_s)
                else:
                    await self._reconcile_once(key)
            finally:
                queue.done(key)

    async def _reconcile_once(self, key: Key) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._active.inc()
        with logs.bound(controller=self.name, **self._log_fields(key)):
            try:
                async with asyncio.timeout(self._reconcile_timeout_s):
                    result = await self._reconcile(key)
            except Exception as exc:
                self._results["error"].inc()
                self._errors.inc()
                self._retry(key, exc)
            else:
                self.queue.forget(key)
                if result.requeue_after_s is None:
                    self._results["success"].inc()
                else:
                    self._results["requeue_after"].inc()
                    self.queue.add_after(key, result.requeue_after_s)
            finally:
                self._active.dec()
                self._seconds.observe(loop.time() - started)

    def _retry(self, key: Key, exc: Exception) -> None:
        retry_after_s = exc.retry_after_s if isinstance(exc, ApiError) else None
        if retry_after_s is not None:
            retry_in_s = retry_after_s
            self.queue.add_after(key, retry_in_s)
        else:
            retry_in_s = self.queue.add_rate_limited(key)
        extra = {"retry_in_s": round(retry_in_s, 3), "failures": self.queue.retries(key)}
        if isinstance(exc, ConflictError | AlreadyExistsError):
            logger.debug("reconcile lost a race: %s", exc, extra=extra)
        elif isinstance(exc, ApiError):
            logger.warning("reconcile failed: %s", exc, extra=extra)
        elif isinstance(exc, TimeoutError):
            logger.error("reconcile took longer than %g s and was ended", self._reconcile_timeout_s, extra=extra)
        else:
            logger.error("reconcile failed: %s", exc, exc_info=exc, extra=extra)
