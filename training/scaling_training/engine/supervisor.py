"""The driver's eye on the worker group: takes letters at each poll, passes on the wish to stop, ends what hangs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from scaling_training.aside import Aside
from scaling_training.engine import mailbox
from scaling_training.engine.answers import START_LIMIT_S
from scaling_training.engine.failures import Cause, Kind
from scaling_training.engine.mailbox import Letter
from scaling_training.engine.ray_internals.train import WorkerGroupCallback
from scaling_training.engine.watchdog import Stuck, Watchdog

log = logging.getLogger(__name__)

LAST_LETTER_S = 2.0
# Processes that answer do so in milliseconds; they get longer because this is the only chance, on a machine that may
# be loaded.
STACKS_S = 15.0
_SILENT = "It does not answer, so there are no stacks: it is stopped, or its node is lost."


class Supervisor(WorkerGroupCallback):  # type: ignore[misc]
    """Called by the controller's thread; ``stop`` and the attributes are read and set by any thread.

    ``deliver`` gets rank 0's letters, ``mark`` the points that the group passes, ``ended`` hears that there will be no
    more of both; ``hang`` gets what was found out about a hang: the sentence, and by rank the stacks or why there are
    none. It is called ``aside``, because what it writes to may be what hangs.
    """

    def __init__(
        self,
        deliver: Callable[[Letter], None],
        mark: Callable[[str, float], None],
        ended: Callable[[], None],
        hang: Callable[[str, Mapping[int, str]], None],
        aside: Aside,
    ) -> None:
        self._deliver = deliver
        self._mark = mark
        self._ended = ended
        self._hang = hang
        self._aside = aside
        self._stop = False
        self._workers: list[Any] = []
        self._pending: dict[int, Any] = {}
        self._watchdog: Watchdog | None = None
        self._launch: threading.Timer | None = None
        self.verdict: Cause | None = None  # why processes of the group at work were stopped from here
        self.started_at: float | None = None  # monotonic, of the group at work; None: there is none
        self.workers = 0

    def request_stop(self) -> None:
        """Have training save and end."""
        self._stop = True

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """There is a slot for every process."""
        self._mark("groupStarting", time.time())

    def after_worker_group_start(self, worker_group: Any) -> None:
        """All processes are there and know one another."""
        self._workers = worker_group.get_workers()
        self._pending = {}
        self._watchdog, self.verdict = None, None
        self.workers = len(self._workers)
        self._mark("groupStarted", time.time())
        # Ray now calls the training function, and waits without limit until every process has taken the call.
        self._launch = threading.Timer(START_LIMIT_S, self._end_launch)
        self._launch.daemon = True
        self._launch.start()

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        """Training was called."""
        self.launch_over()
        self.started_at = time.monotonic()
        self._watchdog = Watchdog(self.workers, now=self.started_at)

    def launch_over(self) -> None:
        """No launch is under way: the group trains, or has failed."""
        if self._launch is not None:
            self._launch.cancel()
            self._launch = None

    def _end_launch(self) -> None:
        """Kill all processes, as it is not known which one is stuck: Ray's wait ends, and the group is lost."""
        why = f"the training processes did not all begin to train within {START_LIMIT_S:.0f} s: stopped"
        log.error("%s", why)
        self.verdict = Cause(Kind.LOST, why)
        for worker in self._workers:
            ray.kill(worker.actor)

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Exchange letters with every process, without ever waiting for one."""
        for rank in range(len(self._workers)):
            self._exchange(rank)
        if self._watchdog is not None and self.verdict is None:
            found = self._watchdog.look(now=time.monotonic())
            if isinstance(found, Stuck):
                self._end(found)

    def _exchange(self, rank: int) -> None:
        if rank in self._pending:
            done, _ = ray.wait([self._pending[rank]], timeout=0)
            if not done:
                return
            self._take(rank, self._pending.pop(rank))
        self._pending[rank] = self._workers[rank].actor.execute.remote(mailbox.exchange, self._stop)
        if self._watchdog is not None:
            self._watchdog.asked(rank, now=time.monotonic())

    def _take(self, rank: int, answer: Any) -> None:
        try:
            letter: Letter = ray.get(answer)
        except RayError:
            # If its process is gone, the same poll tells the controller, which ends the group; an answer that was lost
            # on its way is followed by others.
            return
        if rank == 0:
            self._deliver(letter)
        if self._watchdog is not None and letter.heartbeat is not None:
            self._watchdog.answered(rank, letter.heartbeat, now=time.monotonic())

    def _end(self, found: Stuck) -> None:
        """Kill what is stuck: the controller sees a loss and starts the group anew. All that answer tell their stacks.

        Those that are killed are waited for, unless they are silent; the others tell theirs while the group ends.
        """
        log.error("%s", found.why)
        self.verdict = Cause(Kind.LOST, found.why)
        silent = found.ranks if found.silent else ()
        asked = {
            rank: worker.actor.execute.remote(mailbox.stacks)
            for rank, worker in enumerate(self._workers)
            if rank not in silent
        }
        last_words = [asked[rank] for rank in found.ranks if rank in asked]
        if last_words:
            ray.wait(last_words, num_returns=len(last_words), timeout=STACKS_S)
        for rank in found.ranks:
            ray.kill(self._workers[rank].actor)
        size = len(self._workers)
        self._aside.do("The stacks", lambda: self._hang(found.why, _stacks(asked, size)))

    def group_lost(self) -> None:
        """The group ends because of a failure: what it says from now on does not count, and nobody waits for it.

        Nor does the verdict on it, which would be taken for the reason if the next group fails as it starts.
        """
        self.launch_over()
        self._pending, self.verdict = {}, None

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """The group is about to end: take rank 0's last letter, which says how far it came."""
        workers = worker_group.get_workers() if self._pending else []
        if workers:
            try:
                last = workers[0].actor.execute.remote(mailbox.exchange, self._stop)
                self._deliver(ray.get(last, timeout=LAST_LETTER_S))
            except RayError:
                # Its process is what the group ends for.
                pass
        self._workers, self._pending, self._watchdog, self.started_at = [], {}, None, None
        self._ended()


def _stacks(asked: Mapping[int, Any], size: int) -> dict[int, str]:
    """The stacks of the processes by rank, or why there are none."""
    until = time.monotonic() + STACKS_S
    return {rank: _told(asked[rank], until) if rank in asked else _SILENT for rank in range(size)}


def _told(answer: Any, until: float) -> str:
    try:
        stacks: str = ray.get(answer, timeout=max(0.0, until - time.monotonic()))
        return stacks
    except GetTimeoutError:
        return _SILENT
    except RayError as error:
        return f"It has ended: {type(error).__name__}"
