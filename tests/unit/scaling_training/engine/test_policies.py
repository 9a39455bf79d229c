from __future__ import annotations

import logging
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray.exceptions import ActorDiedError
    from ray.train import ControllerError, ScalingConfig, WorkerGroupError

    from scaling_training.engine import policies
    from scaling_training.engine.failures import Cause, Kind, RestartBudget
    from scaling_training.engine.policies import PATIENCE_S, BudgetPolicy, SlotPolicy, group_cause
    from scaling_training.engine.ray_internals.train import (
        FailureDecision,
        NoopDecision,
        ResizeDecision,
        UserExceptionWithTraceback,
        WorkerGroupStartupFailedError,
        WorkerGroupStartupTimeoutError,
        WorkerHealthCheckFailedError,
    )
    from scaling_training.engine.sizing import Sizing
from scaling_training.errors import UserError


def raised(error: Exception) -> UserExceptionWithTraceback:
    return UserExceptionWithTraceback(error, f"Traceback of {error}")


def lost() -> WorkerHealthCheckFailedError:
    return WorkerHealthCheckFailedError("A worker health check failed.", failure=ActorDiedError())


def group(**failures: Exception) -> WorkerGroupError:
    return WorkerGroupError("failed", {int(rank[1:]): error for rank, error in failures.items()})


ECHO = RuntimeError("Connection closed by peer")


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        pytest.param(
            group(r0=raised(ECHO), r1=raised(UserError("mend it"))),
            Kind.USER,
            "mend it",
            id="a user's mistake and its echo",
        ),
        pytest.param(
            group(r0=raised(ECHO), r1=lost()), Kind.LOST, "training process 1 was lost", id="a loss and its echo"
        ),
        pytest.param(
            group(r0=raised(ValueError("shapes"))), Kind.PROGRAM, "ValueError in training process 0: shapes", id="a bug"
        ),
        pytest.param(ControllerError(WorkerGroupStartupTimeoutError(2)), Kind.NO_ROOM, "free slot", id="no room"),
        pytest.param(
            ControllerError(WorkerGroupStartupFailedError("x")),
            Kind.LOST,
            "while the group started",
            id="lost in the start",
        ),
    ],
)
def test_what_ray_reports_becomes_a_cause(error: Exception, kind: Kind, sentence: str) -> None:
    cause = group_cause(error)
    assert cause.kind == kind
    assert sentence in cause.sentence


def policy(*, stopping: bool = False, restarts: list[Any] | None = None, verdict: Cause | None = None) -> BudgetPolicy:
    return BudgetPolicy(
        None,
        budget=RestartBudget(),
        gained=lambda: (0, 5, "checkpoints/attempt-0001/step-00000005"),
        restarting=(restarts if restarts is not None else []).append,
        stopping=lambda: stopping,
        verdict=lambda: verdict,
    )


def test_a_loss_is_met_by_a_restart_and_said() -> None:
    restarts: list[Any] = []
    judge = policy(restarts=restarts)
    assert judge.make_decision(group(r1=lost())) is FailureDecision.RETRY
    assert [cause.kind for cause in restarts] == [Kind.LOST]
    assert judge.final is None


def test_a_users_mistake_ends_the_run() -> None:
    judge = policy()
    assert judge.make_decision(group(r1=raised(UserError("mend it")))) is FailureDecision.RAISE
    assert judge.final is not None
    assert judge.final.sentence == "mend it"


def test_a_group_that_was_asked_to_stop_is_not_mended() -> None:
    assert policy(stopping=True).make_decision(group(r1=lost())) is FailureDecision.RAISE


def test_a_bugs_traceback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    error = WorkerGroupError("Traceback of shapes", {0: raised(ValueError("shapes"))})
    with caplog.at_level(logging.ERROR):
        assert policy().make_decision(error) is FailureDecision.RETRY
    assert "Traceback of shapes" in caplog.text


def test_what_breaks_after_a_stop_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    error = ControllerError(AttributeError("'NoneType' object has no attribute 'cluster_id'"))
    with caplog.at_level(logging.ERROR):
        assert policy(stopping=True).make_decision(error) is FailureDecision.RAISE
    assert caplog.text == ""


def test_what_the_watchdog_stopped_is_not_called_lost() -> None:
    restarts: list[Any] = []
    verdict = Cause(Kind.LOST, "training process 1 made no step for 34 s: stopped")
    error = WorkerGroupError("one died", {1: ActorDiedError()})
    assert policy(restarts=restarts, verdict=verdict).make_decision(error) is FailureDecision.RETRY
    assert restarts == [verdict]


class Answering:
    """Processes that are there as soon as they are asked for."""

    slots = 0

    def start(self, by_node: dict[str, int], *, now: float) -> None:
        self.slots = sum(by_node.values())

    def answered(self, *, timeout_s: float) -> int:
        return self.slots


def test_an_edit_of_the_bounds_counts_while_workers_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "slots_by_node", lambda: {"a": 1})
    clock = iter([1.0, 1.0 + PATIENCE_S, 2.0 + PATIENCE_S])
    monkeypatch.setattr(policies, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None))
    sizing = [Sizing(2, 2, 8, 0)]
    judge = SlotPolicy(
        ScalingConfig(num_workers=2),
        sizing=lambda: sizing[-1],
        processes=Answering(),  # type: ignore[arg-type]
        waiting=lambda slots: None,
        given_up=lambda: False,
    )
    for _ in range(2):
        assert isinstance(judge.make_decision_for_non_running_worker_group(), NoopDecision)
    sizing.append(Sizing(1, 2, 8, 0))
    begun = judge.make_decision_for_non_running_worker_group()
    assert isinstance(begun, ResizeDecision)
    assert begun.num_workers == 1
