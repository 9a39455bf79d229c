"""One training, from a connected Ray to its outcome.

The controller runs on a thread of its own; the caller's thread watches it, so that signals are handled, a wish
to stop is passed on, and an elastic group that could grow is asked to save and is started anew, larger.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaling_api.driver import WorkerBounds
from scaling_training.aside import Aside
from scaling_training.engine.errors import EngineError
from scaling_training.engine.failures import Cause, Kind, RestartBudget, final_sentence
from scaling_training.engine.mailbox import Letter
from scaling_training.engine.sizing import Sizing
from scaling_training.engine.worker import WorkerTask, run
from scaling_training.errors import UserError
from scaling_training.storage import Storage
from scaling_training.train.types import TrainingProgress, TrainOutcome, outcome_from_dict

log = logging.getLogger(__name__)

TICK_S = 0.05
# A checkpoint takes seconds; the pod's grace period is 120 s.
SAVE_LIMIT_S = 90.0
# A group grows at most so often, because each time costs a restart.
GROW_INTERVAL_S = 30.0
SLOTS_INTERVAL_S = 3.0
# How long a stop waits for the controller to leave, which may be in the midst of a group's start, and for what is
# written about the last hang; together with SAVE_LIMIT_S less than the grace period.
LEAVE_LIMIT_S = 15.0
# How long the end waits for what is written about the last hang; storage may be what hung.
TELL_LIMIT_S = 20.0


class StoppedError(Exception):
    """Training ended early because it was asked to; what was committed is in storage.

    Not ``saved``: something had been done since, which was not saved in time.
    """

    def __init__(self, *, saved: bool = True) -> None:
        super().__init__()
        self.saved = saved


@dataclass(frozen=True, slots=True)
class Watch:
    """How the engine speaks to whoever started it; called from several threads."""

    progress: Callable[[TrainingProgress], None]
    say: Callable[[str], None]  # one sentence on what is waited for or went wrong; "" when all is well
    mark: Callable[..., None]  # a point in time was passed: its name and, unless it is now, Unix time
    stop_requested: Callable[[], bool]
    share: Callable[[float], None] = lambda share: None  # how much of a stage other than training is done, 0 to 1
    note: Callable[[str], None] = lambda sentence: None  # what a stage found or took, to be read once
    bounds: Callable[[], Sequence[WorkerBounds]] = lambda: ()  # of the worker groups, when they were edited


def run_training(
    task: WorkerTask, *, sizing: Callable[[], Sizing], resources: dict[str, float], scratch: str, watch: Watch
) -> TrainOutcome:
    """Train to the end and return the outcome; ``sizing`` is asked anew whenever it counts, as it may be edited.

    Raises StoppedError after a stop, UserError for what the user must mend, EngineError when the training
    processes cannot be kept alive.
    """
    budget, mark = RestartBudget(), Marks(watch.mark)
    while True:
        group = _Group(task, sizing, resources, scratch, watch, budget, mark)
        outcome = outcome_from_dict(group.run())
        if not outcome.stopped:
            return outcome
        if watch.stop_requested():
            raise StoppedError
        log.info("Starting the training processes anew: there is room for more")


def run_evaluation(
    task: WorkerTask, *, sizing: Callable[[], Sizing], resources: dict[str, float], scratch: str, watch: Watch
) -> dict[str, Any]:
    """Evaluate on as many processes as there are slots; the metrics of each split. A lost process means to begin anew.

    Raises what `run_training` does.
    """
    found = _FixedGroup(task, sizing, resources, scratch, watch, RestartBudget(), Marks(watch.mark)).run()
    if found["stopped"]:
        raise StoppedError
    metrics: dict[str, Any] = found["metrics"]
    return metrics


def save_stacks(storage: Storage, attempt: int, why: str, stacks: Mapping[int, str]) -> str:
    """Write ``hangs/attempt-0001-1/process-0.txt`` and so on; returns the folder's name."""
    known = [name for name in storage.names("hangs") if name.startswith(f"attempt-{attempt:04d}-")]
    folder = f"hangs/attempt-{attempt:04d}-{len(known) + 1}"
    for rank, text in stacks.items():
        storage.write(f"{folder}/process-{rank}.txt", f"{why}\n\n{text}\n".encode())
    return folder


class Marks:
    """Notes the points that each group of processes passes; those of the second end in 2, and so on."""

    def __init__(self, mark: Callable[[str, float], None]) -> None:
        self._mark = mark
        self._group = 1

    def __call__(self, name: str, at: float) -> None:
        """The group at work passed a point at Unix time ``at``."""
        self._mark(name if self._group == 1 else f"{name}{self._group}", at)

    def ended(self) -> None:
        """The group at work has said its last word."""
        self("groupEnded", time.time())
        self._group += 1


class _Group:
    """The worker groups of one controller."""

    def __init__(
        self,
        task: WorkerTask,
        sizing: Callable[[], Sizing],
        resources: dict[str, float],
        scratch: str,
        watch: Watch,
        budget: RestartBudget,
        mark: Marks,
    ) -> None:
        from scaling_training.engine.policies import BudgetPolicy
        from scaling_training.engine.supervisor import Supervisor

        self._task = task
        self._sizing = sizing
        self._resources = resources
        self._scratch = scratch
        self._watch = watch
        self._budget = budget
        self._mark = mark
        # Of the group at work: what it started from and how far it is.
        self._base: TrainingProgress | None = None
        self._latest: TrainingProgress | None = None
        self._began = False  # some group of this controller has
        self._aside = Aside()
        self._supervisor = Supervisor(self._deliver, mark, mark.ended, self._hang, self._aside)
        self._given_up = threading.Event()
        self._warned = 0  # of its warnings, how many are logged
        self._failures: BudgetPolicy | None = None
        self._value: dict[str, Any] | None = None
        self._error: BaseException | None = None

    def run(self) -> dict[str, Any]:
        """What the first process returned, once the controller ends; StoppedError when a stop can wait no longer."""
        thread = threading.Thread(target=self._fit, name="ray-train", daemon=True)
        thread.start()
        stopped_at: float | None = None
        looked_at = time.monotonic()
        while thread.is_alive():
            thread.join(TICK_S)
            now = time.monotonic()
            if stopped_at is None and self._watch.stop_requested():
                stopped_at = now
                self._supervisor.request_stop()
            if stopped_at is not None and (self._latest is None or now - stopped_at > SAVE_LIMIT_S):
                # No process trains yet, or one hangs: there is nothing (more) to save.
                self._given_up.set()
                # The caller is about to leave Ray, which may end a process that has a thread in it.
                thread.join(LEAVE_LIMIT_S)
                self._aside.wait(max(0.0, now + LEAVE_LIMIT_S - time.monotonic()))
                raise StoppedError(saved=not self._began)
            if now - looked_at >= SLOTS_INTERVAL_S:
                looked_at = now
                if self._may_grow(now):
                    self._supervisor.request_stop()
        self._aside.wait(TELL_LIMIT_S)
        return self._outcome()

    def _outcome(self) -> dict[str, Any]:
        final = self._failures.final if self._failures else None
        if final is not None and final.kind is Kind.USER:
            raise UserError(final.sentence)
        if final is not None and self._watch.stop_requested():
            # What was committed before is what there is to save.
            raise StoppedError(saved=not self._began)
        if final is not None:
            raise EngineError(*final_sentence(final, self._budget.in_a_row))
        if self._error is not None:
            raise EngineError(f"Ray Train failed: {type(self._error).__name__}: {self._error}") from self._error
        if self._value is None:
            raise EngineError("Ray Train ended without an outcome")
        return self._value

    def _fit(self) -> None:
        try:
            from scaling_training.engine.policies import BudgetPolicy, SlotPolicy
            from scaling_training.engine.trainer import InProcessTrainer

            def failure_policy(config: Any) -> BudgetPolicy:
                self._failures = BudgetPolicy(
                    config,
                    budget=self._budget,
                    gained=self._gained,
                    restarting=self._restarting,
                    stopping=self._watch.stop_requested,
                    verdict=lambda: self._supervisor.verdict,
                )
                return self._failures

            trainer = InProcessTrainer(
                functools.partial(run, self._task),
                workers=self._sizing().least,
                resources_per_worker=self._resources,
                scratch=self._scratch,
                supervisor=self._supervisor,
                scaling_policy=lambda config, processes: SlotPolicy(
                    config,
                    sizing=self._sizing,
                    processes=processes,
                    waiting=self._waiting,
                    given_up=self._given_up.is_set,
                ),
                failure_policy=failure_policy,
                given_up=self._given_up.is_set,
            )
            self._watch.mark("controllerStarted", time.time())
            self._value = trainer.fit().return_value
        except BaseException as error:
            self._error = error
        finally:
            self._supervisor.launch_over()

    def _deliver(self, letter: Letter) -> None:
        for name, at in letter.marks.items():
            self._mark(name, at)
        if letter.progress is not None:
            if self._base is None:
                self._base = letter.progress
                self._watch.say("")
            self._latest = letter.progress
            self._began = True
            self._watch.progress(letter.progress)
        for warning in letter.warnings[self._warned :]:
            log.warning("%s", warning)
        self._warned = max(self._warned, len(letter.warnings))

    def _hang(self, why: str, stacks: Mapping[int, str]) -> None:
        folder = save_stacks(Storage(self._task.storage_root), self._task.attempt, why, stacks)
        log.error("The stacks of all training processes are in %s", folder)

    def _gained(self) -> tuple[int, int, str | None]:
        if self._base is None or self._latest is None:
            return 0, 0, None
        return self._base.step, self._latest.step, self._latest.checkpoint

    def _restarting(self, cause: Cause) -> None:
        self._mark("lossNoticed", time.time())
        self._supervisor.group_lost()
        self._base = self._latest = None
        self._warned = 0
        self._watch.say(f"restarting from the last checkpoint: {cause.sentence}")

    def _waiting(self, slots: int) -> None:
        sizing = self._sizing()
        needed = sizing.wanted if slots >= sizing.least else sizing.least
        self._watch.say(f"waiting for workers: {slots} of {needed} slots are there")

    def _may_grow(self, now: float) -> bool:
        started_at, workers, sizing = self._supervisor.started_at, self._supervisor.workers, self._sizing()
        if not sizing.elastic or started_at is None or now - started_at < GROW_INTERVAL_S:
            return False
        from scaling_training.engine.processes import slots_by_node

        return sizing.has_room(workers, slots=sum(slots_by_node().values()))


class _FixedGroup(_Group):
    """One that stays as large as it was started."""

    def _may_grow(self, now: float) -> bool:
        return False
