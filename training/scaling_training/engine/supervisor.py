"""The driver's eye on the worker group: takes its progress at each poll and passes on the wish to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from scaling_training.engine import mailbox
from scaling_training.engine.mailbox import Letter

LAST_LETTER_S = 2.0


class Supervisor(WorkerGroupCallback):  # type: ignore[misc]
    """Called by the controller's thread; ``stop`` and the attributes are read and set by any thread."""

    def __init__(self, deliver: Callable[[Letter], None], mark: Callable[[str, float], None]) -> None:
        self._deliver = deliver
        self._mark = mark
        self._stop = False
        self._first: Any = None
        self._pending: Any = None
        self.started_at: float | None = None  # monotonic, of the group at work; None: there is none
        self.workers = 0

    def request_stop(self) -> None:
        """Have training save and end."""
        self._stop = True

    def after_worker_group_start(self, worker_group: Any) -> None:
        """All processes are there and know one another."""
        workers = worker_group.get_workers()
        self._first, self._pending = workers[0].actor, None
        self.workers = len(workers)
        self._mark("groupStarted", time.time())

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        """Training was called."""
        self.started_at = time.monotonic()

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Exchange letters with rank 0, without ever waiting for it."""
        if self._first is None:
            return
        if self._pending is not None:
            done, _ = ray.wait([self._pending], timeout=0)
            if not done:
                return
            try:
                self._deliver(ray.get(self._pending))
            except RayError:
                # The process is gone; the same poll tells the controller.
                self._first = None
                return
        self._pending = self._first.execute.remote(mailbox.exchange, self._stop)

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """The group is about to end: take its last letter, which says how far it came."""
        if self._first is not None:
            try:
                last = self._first.execute.remote(mailbox.exchange, self._stop)
                self._deliver(ray.get(last, timeout=LAST_LETTER_S))
            except RayError:
                # Its process is what the group ends for.
                pass
        self._first, self._pending, self.started_at = None, None, None
