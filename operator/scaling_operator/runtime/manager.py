"""The process: starts everything, ends everything, and lets nothing die unnoticed.

All tasks live in one group. Reflectors, background tasks and the health port run on every replica, so a
standby has warm caches; controllers and leader-only tasks run while the lease is held. A task that ends by
itself, with or without an exception, ends the process: an operator without one of its watches looks alive
and does nothing.

Graceful end (SIGTERM, SIGINT, or `stop`): queues hand out nothing more, reconciles in progress may finish
within a limit, the lease is given back, then the rest is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

from . import metrics
from .controller import Controller
from .errors import ApiError
from .health import HealthServer
from .leader import LeaderElector
from .reflector import Reflector

logger = logging.getLogger(__name__)

SHUTDOWN_GRACE_S = 20.0
SYNC_RETRY_S = 1.0
LOOP_LAG_PERIOD_S = 1.0

Work = Callable[[], Coroutine[Any, Any, None]]


class TaskEndedError(Exception):
    """A task that is meant to run for ever returned."""


class Manager:
    """Runs what was added to it until a signal or a failure.

    Without an `elector` this replica always leads. `shutdown_grace_s` bounds the wait for reconciles in
    progress; keep it below the pod's terminationGracePeriodSeconds.
    """

    def __init__(
        self,
        *,
        health: HealthServer | None = None,
        elector: LeaderElector | None = None,
        shutdown_grace_s: float = SHUTDOWN_GRACE_S,
    ) -> None:
        self._health = health
        self._elector = elector
        self._shutdown_grace_s = shutdown_grace_s
        self._reflectors: list[Reflector] = []
        self._controllers: list[Controller] = []
        self._tasks: dict[str, Work] = {}
        self._leader_tasks: dict[str, Work] = {}
        self._leader_starts: list[Callable[[], Awaitable[None]]] = []
        self._stopping = asyncio.Event()
        self._leading = False

    @property
    def is_leading(self) -> bool:
        """Whether this replica's controllers are at work."""
        return self._leading

    def add_reflector(self, reflector: Reflector) -> None:
        """Run `reflector` on every replica; readiness and controllers wait for its first list."""
        self._reflectors.append(reflector)

    def add_controller(self, controller: Controller) -> None:
        """Run `controller` while leading, once all caches are in sync."""
        self._controllers.append(controller)

    def add_task(self, name: str, work: Work, *, leader_only: bool = False) -> None:
        """Run `work` for ever on every replica, or while leading. Raises ValueError for a name in use."""
        if name in self._tasks or name in self._leader_tasks:
            raise ValueError(f"a task named {name} is there already")
        (self._leader_tasks if leader_only else self._tasks)[name] = work

    def on_started_leading(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Await `callback` each time this replica starts to lead, with fresh caches, before any controller."""
        self._leader_starts.append(callback)

    def stop(self) -> None:
        """Begin the graceful end."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until stopped; raises what ended it otherwise (an exception group of one or more).

        LeadershipLostError among them means that another replica has taken over: end the process.
        """
        if self._health is not None:
            self._health.readiness.setdefault("caches", self._caches_problem)
            if self._elector is not None:
                self._health.liveness.setdefault("leader-election", self._leader_problem)
        with _signals(self.stop):
            async with asyncio.TaskGroup() as group:
                background = [
                    group.create_task(_forever(name, work), name=name) for name, work in self._every_replica()
                ]
                await self._lead_until_stopped()
                for task in background:
                    task.cancel()
        logger.info("stopped")

    def _every_replica(self) -> Iterator[tuple[str, Work]]:
        if self._health is not None:
            yield "health", self._health.run
        for reflector in self._reflectors:
            yield f"reflector-{reflector.name}", reflector.run
        yield from self._tasks.items()
        yield "loop-lag", measure_loop_lag

    async def _lead_until_stopped(self) -> None:
        if self._elector is None:
            await self._lead()
            return
        leading = asyncio.ensure_future(self._elector.run(self._lead))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({leading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not self._leading and not leading.done():
                # A standby that only contends has nothing to finish.
                leading.cancel()
            await asyncio.wait({leading})
        finally:
            stopping.cancel()
            if not leading.done():
                leading.cancel()
                await asyncio.wait({leading})
        if not leading.cancelled():
            leading.result()

    async def _lead(self) -> None:
        """Everything that only the leader does, until `stop`; then finish what is in progress."""
        began = asyncio.get_running_loop().time()
        self._leading = True
        try:
            if not await self._unless_stopped(self._make_caches_fresh(began)):
                return
            for callback in self._leader_starts:
                if not await self._unless_stopped(callback()):
                    return
            async with asyncio.TaskGroup() as group:
                controllers = [
                    group.create_task(controller.run(), name=controller.name) for controller in self._controllers
                ]
                for task in controllers:
                    task.add_done_callback(self._end_of_controller)
                others = [
                    group.create_task(_forever(name, work), name=name) for name, work in self._leader_tasks.items()
                ]
                await self._stopping.wait()
                for controller in self._controllers:
                    controller.queue.shutdown()
                if controllers:
                    _, late = await asyncio.wait(controllers, timeout=self._shutdown_grace_s)
                    for task in late:
                        logger.warning("reconciles of %s did not end in time and are cut off", task.get_name())
                        task.cancel()
                for task in others:
                    task.cancel()
        finally:
            self._leading = False

    def _end_of_controller(self, task: asyncio.Task[None]) -> None:
        # A controller returns only when its queue is shut down; if nobody asked for that, everything ends.
        if not task.cancelled() and task.exception() is None and not self._stopping.is_set():
            logger.error("controller %s ended by itself", task.get_name())
            self.stop()

    async def _unless_stopped(self, work: Awaitable[None]) -> bool:
        """Await `work`; False if the graceful end began first, `work` being cancelled then."""
        task = asyncio.ensure_future(work)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                return False
            task.result()
            return True
        finally:
            stopping.cancel()
            task.cancel()
            await asyncio.wait({task, stopping})

    async def _make_caches_fresh(self, began: float) -> None:
        """Wait for the first lists and repeat those that began before we led.

        The previous leader may have written until a moment ago; a list begun now shows all of it, while a
        watch may be behind.
        """
        await asyncio.gather(*(reflector.store.wait_synced() for reflector in self._reflectors))
        for reflector in self._reflectors:
            while reflector.last_list_began_at < began:
                try:
                    await reflector.refresh()
                except ApiError as exc:
                    logger.warning("cannot refresh %s before leading: %s", reflector.name, exc)
                    await asyncio.sleep(SYNC_RETRY_S)

    def _caches_problem(self) -> str | None:
        missing = [reflector.name for reflector in self._reflectors if not reflector.store.has_synced]
        return f"not yet listed: {', '.join(missing)}" if missing else None

    def _leader_problem(self) -> str | None:
        if self._leading and self._elector is not None and not self._elector.is_leading:
            return "the lease has run out and the work has not ended"
        return None


async def measure_loop_lag(period_s: float = LOOP_LAG_PERIOD_S) -> None:
    """Keep the gauge of how late timers run: what blocks the event loop shows there."""
    while True:
        due = time.monotonic() + period_s
        await asyncio.sleep(period_s)
        metrics.LOOP_LAG.set(max(0.0, time.monotonic() - due))


async def _forever(name: str, work: Work) -> None:
    await work()
    raise TaskEndedError(f"task {name} ended by itself")


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
