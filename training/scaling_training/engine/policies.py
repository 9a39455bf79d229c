"""Ray Train's two decisions, made by our own rules: how many workers, and what to do after a failure."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayActorError
from ray.train import ControllerError, PreemptionError, WorkerGroupError

from scaling_training.engine.errors import GivenUpError
from scaling_training.engine.failures import Cause, Kind, RestartBudget, cause_of, most_telling
from scaling_training.engine.processes import Processes, slots_by_node
from scaling_training.engine.ray_internals.train import (
    FailureDecision,
    FailurePolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
    ScalingPolicy,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    unwrapped,
)
from scaling_training.engine.sizing import Sizing

log = logging.getLogger(__name__)

# How long an elastic group waits for all the workers that the spec promises before it starts with fewer: about
# what a replacement pod takes to come up.
PATIENCE_S = 15.0
LOOK_S = 0.1


class SlotPolicy(ScalingPolicy):  # type: ignore[misc]
    """As many workers as there are slots, between the bounds of the sizing as it is then.

    A running group is left alone here: it grows by saving a checkpoint and starting anew, which is the
    engine's business, and shrinks by losing a worker.

    The controller asks in each of its rounds, so this is also where it hears that it was ``given_up``.
    """

    def __init__(
        self,
        scaling_config: Any,
        *,
        sizing: Callable[[], Sizing],
        processes: Processes,
        waiting: Callable[[int], None],
        given_up: Callable[[], bool],
    ) -> None:
        super().__init__(scaling_config)
        self._given_up = given_up
        self._sizing = sizing
        self._processes = processes
        self._waiting = waiting
        self._since: float | None = None

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start when enough slots are there and their processes have answered. GivenUpError ends the controller.

        The controller asks again at once after a Noop.
        """
        self._go_on()
        now = time.monotonic()
        self._since = self._since or now
        by_node = slots_by_node()
        self._processes.start(by_node, now=now)
        slots = sum(by_node.values())
        workers = workers_for(slots, self._sizing(), waited_s=now - self._since)
        if workers is None:
            self._waiting(slots)
            time.sleep(LOOK_S)
            return NoopDecision()
        if self._processes.answered(timeout_s=LOOK_S) < workers:
            return NoopDecision()
        self._since = None
        return ResizeDecision(num_workers=workers, resources_per_worker=self.scaling_config.resources_per_worker)

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Leave it alone. GivenUpError ends the controller."""
        self._go_on()
        return NoopDecision()

    def _go_on(self) -> None:
        if self._given_up():
            raise GivenUpError

    def _get_num_workers_for_resource_request(self) -> int:
        return self._sizing().least

    # No autoscaler is asked for nodes, so its coordinator, an actor, is not started.

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nothing to register."""

    async def before_controller_shutdown(self) -> None:
        """Nothing to cancel."""

    def before_controller_abort(self) -> None:
        """Nothing to cancel."""


def workers_for(slots: int, sizing: Sizing, *, waited_s: float) -> int | None:
    """How many workers to start on so many slots; None: wait."""
    if slots >= sizing.wanted:
        return sizing.whole_groups(slots)
    if slots >= sizing.least and waited_s >= PATIENCE_S:
        return sizing.whole_groups(slots)
    return None


class BudgetPolicy(FailurePolicy):  # type: ignore[misc]
    """Restarts the group while the budget lasts, and remembers the cause that ended it."""

    def __init__(
        self,
        failure_config: Any,
        *,
        budget: RestartBudget,
        gained: Callable[[], tuple[int, int, str | None]],
        restarting: Callable[[Cause], None],
        stopping: Callable[[], bool],
        verdict: Callable[[], Cause | None],
    ) -> None:
        super().__init__(failure_config)
        self._budget = budget
        self._gained = gained
        self._restarting = restarting
        self._stopping = stopping
        self._verdict = verdict
        self.final: Cause | None = None

    def make_decision(self, training_failed_error: BaseException) -> FailureDecision:
        """Retry or raise."""
        # Whoever was stopped from here looks like a loss; the reason is better known here.
        start, step, checkpoint = self._gained()
        cause = self._verdict() or group_cause(training_failed_error)
        cause = self._budget.judged(cause, start=start, step=step)
        if self._stopping():
            # Asked to stop, a group that breaks is not mended; and whoever asked may have left Ray already, which
            # makes errors that tell nobody anything.
            self.final = cause
            return FailureDecision.RAISE
        if cause.kind is Kind.PROGRAM:
            # A sentence is for users; whoever mends the program needs the traceback.
            log.error("%s", training_failed_error)
        if self._budget.spend(cause, start=start, step=step, checkpoint=checkpoint):
            self._restarting(cause)
            return FailureDecision.RETRY
        self.final = cause
        return FailureDecision.RAISE


def group_cause(error: BaseException) -> Cause:
    """The cause of a worker group's end, from what Ray reports."""
    if isinstance(error, WorkerGroupError):
        return most_telling(cause_of(unwrapped(failure), rank=rank) for rank, failure in error.worker_failures.items())
    if isinstance(error, PreemptionError):
        return Cause(Kind.LOST, "a node is being taken away")
    if isinstance(error, ControllerError):
        failure = error.controller_failure
        if isinstance(failure, WorkerGroupStartupTimeoutError):
            return Cause(Kind.NO_ROOM, "not all workers have a free slot yet")
        chain = [failure, failure.__cause__] if failure.__cause__ else [failure]
        if isinstance(failure, WorkerGroupStartupFailedError) or any(isinstance(link, RayActorError) for link in chain):
            return Cause(Kind.LOST, "a training process was lost while the group started")
        return cause_of(unwrapped(failure))
    return cause_of(error)
