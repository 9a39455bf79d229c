from __future__ import annotations

import pytest

from scaling_api.reasons import Failure
from scaling_training.engine.failures import Cause, Kind, RestartBudget, cause_of, final_sentence, most_telling
from scaling_training.errors import UserError


class OutOfMemoryError(Exception):
    pass


class ActorDiedError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        pytest.param(
            UserError("lower the rate"), Kind.USER, "lower the rate", id="a user's mistake keeps its sentence"
        ),
        pytest.param(OutOfMemoryError("x"), Kind.MEMORY, "raise the workers' memory limit", id="Ray's memory monitor"),
        pytest.param(RuntimeError("CUDA out of memory. Tried"), Kind.MEMORY, "memory", id="a GPU's memory"),
        pytest.param(
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
            Kind.MEMORY,
            "training.accumulation",
            id="a CPU's memory",
        ),
        pytest.param(MemoryError("Unable to allocate"), Kind.MEMORY, "memory", id="Python's and numpy's memory"),
        pytest.param(ActorDiedError("died"), Kind.LOST, "training process 1 was lost", id="a process is gone"),
        pytest.param(
            RuntimeError("[gloo] Connection closed by peer [10.0.0.1]:4"),
            Kind.ECHO,
            "lost its connection",
            id="an echo",
        ),
        pytest.param(
            ValueError("first\nshapes differ"),
            Kind.PROGRAM,
            "ValueError in training process 1: shapes differ",
            id="a bug",
        ),
    ],
)
def test_cause(error: Exception, kind: Kind, words: str) -> None:
    cause = cause_of(error, rank=1)
    assert cause.kind == kind
    assert words in cause.sentence
    assert "\n" not in cause.sentence


def test_the_most_telling_cause_speaks_for_the_group() -> None:
    echo, lost, bug = Cause(Kind.ECHO, "echo"), Cause(Kind.LOST, "lost"), Cause(Kind.PROGRAM, "bug")
    assert most_telling([echo, lost, echo]) == lost
    assert most_telling([lost, bug, echo]) == bug
    assert most_telling([]).kind == Kind.LOST


LOST = Cause(Kind.LOST, "lost")
BUG = Cause(Kind.PROGRAM, "bug")


def failures_until_refused(budget: RestartBudget, cause: Cause, *, stride: int) -> int:
    """Each group begins where the last one ended and does so many steps; no checkpoint is committed."""
    for count in range(1, 100):
        if not budget.spend(cause, start=(count - 1) * stride, step=count * stride, checkpoint=None):
            return count
    return 100


@pytest.mark.parametrize(
    ("cause", "steps", "expected"),
    [
        pytest.param(Cause(Kind.USER, "user"), 5, 1, id="a user's mistake is never retried"),
        pytest.param(LOST, 5, 100, id="losses are met as often as they come while steps are done"),
        pytest.param(LOST, 0, 8, id="losses before any step are a crash loop"),
        pytest.param(BUG, 5, 3, id="a bug counts until a new checkpoint"),
        pytest.param(Cause(Kind.NO_ROOM, "room"), 0, 100, id="room is waited for"),
    ],
)
def test_budget(cause: Cause, steps: int, expected: int) -> None:
    assert failures_until_refused(RestartBudget(), cause, stride=steps) == expected


def test_groups_that_never_pass_the_same_step_end_the_attempt() -> None:
    """Each does many steps after the checkpoint, and is lost at the same one."""
    budget = RestartBudget()
    spent = [budget.spend(LOST, start=100, step=121, checkpoint="step-100") for _ in range(8)]
    assert spent == [True] * 7 + [False]
    assert budget.spend(LOST, start=100, step=122, checkpoint="step-100"), "one that gets further is forgiven"


def test_a_new_checkpoint_forgives_bugs() -> None:
    budget = RestartBudget()
    for number in range(20):
        assert budget.spend(BUG, start=number, step=number + 1, checkpoint=f"step-{number}")
    assert budget.spend(BUG, start=19, step=30, checkpoint="step-19")
    assert not budget.spend(BUG, start=19, step=40, checkpoint="step-19")


@pytest.mark.parametrize(
    ("error", "step", "again"),
    [
        pytest.param(KeyError("a"), 7, False, id="the same error at the same step: nothing else will come"),
        pytest.param(KeyError("b"), 7, True, id="another error"),
        pytest.param(KeyError("a"), 8, True, id="the same error at another step"),
    ],
)
def test_a_bug_that_comes_back_word_for_word_is_final(error: Exception, step: int, again: bool) -> None:
    budget = RestartBudget()
    assert budget.spend(cause_of(KeyError("a"), rank=0), start=5, step=7, checkpoint="step-5")
    assert budget.spend(cause_of(error, rank=0), start=5, step=step, checkpoint="step-5") is again


def test_storage_that_fails_twice_alike_may_be_back_the_next_time() -> None:
    budget = RestartBudget()
    gone = cause_of(OSError(5, "Input/output error"), rank=0)
    assert [budget.spend(gone, start=5, step=7, checkpoint="step-5") for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("cause", "failures", "sentence", "reason"),
    [
        pytest.param(BUG, 1, "training failed: bug", Failure.DRIVER_FAILED, id="once"),
        pytest.param(
            BUG, 3, "training failed (3 times in a row without getting further): bug", Failure.DRIVER_FAILED, id="often"
        ),
        pytest.param(Cause(Kind.MEMORY, "oom"), 1, "oom", Failure.OUT_OF_MEMORY, id="memory"),
    ],
)
def test_final_sentence(cause: Cause, failures: int, sentence: str, reason: Failure) -> None:
    assert final_sentence(cause, failures) == (sentence, reason)
