from __future__ import annotations

import pickle

import pytest

from scaling_api.reasons import Failure
from scaling_training.data.errors import DataLostError, Ended, LoaderError, MissingPlaceError
from scaling_training.engine.failures import Cause, Kind, RestartBudget, cause_of, final_sentence, most_telling
from scaling_training.errors import UserError
from scaling_training.update.errors import ServerLostError


class OutOfMemoryError(Exception):
    pass


class DistBackendError(RuntimeError):
    pass


class ActorDiedError(Exception):
    pass


def test_an_error_of_the_program_has_the_line_of_the_users_code() -> None:
    error = KeyError("embedding")
    error.add_note("raised at speech/layers.py:5")
    cause = cause_of(pickle.loads(pickle.dumps(error)), rank=1)
    assert cause.kind is Kind.PROGRAM
    assert cause.sentence == "KeyError in training process 1, at speech/layers.py:5: 'embedding'"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        pytest.param(
            UserError("lower the rate"), Kind.USER, "lower the rate", id="a user's mistake keeps its sentence"
        ),
        pytest.param(OutOfMemoryError("x"), Kind.MEMORY, "raise the workers' memory limit", id="Ray's memory monitor"),
        pytest.param(
            OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."),
            Kind.MEMORY,
            "a GPU's memory is full: raise training.accumulation",
            id="a GPU's memory",
        ),
        pytest.param(
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            Kind.MEMORY,
            "a GPU's memory is full",
            id="a GPU's memory, as cuBLAS says it",
        ),
        pytest.param(
            DistBackendError(
                "NCCL error in: NCCLUtils.cpp:94, unhandled cuda error, NCCL version "
                "2.27.5\nncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"
                "Failed to CUDA calloc async 608 bytes: Cuda failure 2 'out of memory'"
            ),
            Kind.MEMORY,
            "a GPU's memory is full",
            id="a GPU's memory, as NCCL says it",
        ),
        pytest.param(
            DistBackendError(
                "NCCL error in: NCCLUtils.cpp:94, remote process exited or there was a network error, NCCL version "
                "2.27.5\nncclRemoteError: A call failed possibly due to a network error or a remote process exiting "
                "prematurely.\nLast error:\nsocketProgress: Connection closed by remote peer"
            ),
            Kind.ECHO,
            "lost its connection",
            id="an echo in NCCL",
        ),
        pytest.param(
            DistBackendError("NCCL communicator was aborted on rank 1."),
            Kind.ECHO,
            "lost its connection",
            id="an echo of an abort",
        ),
        pytest.param(
            DistBackendError(
                "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=5, OpType=ALLREDUCE) ran for "
                "600029 milliseconds before timing out."
            ),
            Kind.ECHO,
            "lost its connection",
            id="an echo of who waited too long",
        ),
        pytest.param(
            RuntimeError(
                "[../third_party/gloo/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete"
            ),
            Kind.ECHO,
            "lost its connection",
            id="an echo of who waited too long, in gloo",
        ),
        pytest.param(
            RuntimeError("[../third_party/gloo/pair.cc:536] Application timeout caused pair closure"),
            Kind.ECHO,
            "lost its connection",
            id="an echo of another pair's wait, in gloo",
        ),
        pytest.param(
            DistBackendError(
                "NCCL error in: NCCLUtils.cpp:94, invalid usage (run with "
                "NCCL_DEBUG=WARN for details), NCCL version 2.27.5\nncclInvalidUsage: This usually reflects invalid "
                "usage of NCCL library.\nLast error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 40"
            ),
            Kind.PROGRAM,
            "Duplicate GPU detected",
            id="a wrong setup of NCCL",
        ),
        pytest.param(
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
            Kind.MEMORY,
            "training.accumulation",
            id="a CPU's memory",
        ),
        pytest.param(MemoryError("Unable to allocate"), Kind.MEMORY, "memory", id="Python's and numpy's memory"),
        pytest.param(ActorDiedError("died"), Kind.LOST, "training process 1 was lost", id="a process is gone"),
        pytest.param(DataLostError("dataset.uri x no longer answers"), Kind.DATA, "x no longer", id="a mount is gone"),
        pytest.param(MissingPlaceError("dataset.uri x does not exist"), Kind.NO_DATA, "x does", id="no mount"),
        pytest.param(LoaderError("1 died; a", Ended.MEMORY), Kind.MEMORY, "1 died; a", id="a reader out of memory"),
        pytest.param(LoaderError("1 died; b", Ended.KILLED), Kind.LOST, "1 died; b", id="a reader that was killed"),
        pytest.param(LoaderError("1 died; c", Ended.CRASHED), Kind.PROGRAM, "1 died; c", id="a reader that crashed"),
        pytest.param(
            ServerLostError("shard 1 of the parameter server"),
            Kind.SERVER,
            "shard 1 of the parameter server was lost; it runs beside the driver",
            id="a part of the parameter server is gone",
        ),
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
    server = Cause(Kind.SERVER, "server")
    assert most_telling([echo, lost, server]) == server
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
        pytest.param(Cause(Kind.SERVER, "shard"), 5, 100, id="so are those of the parameter server"),
        pytest.param(Cause(Kind.SERVER, "shard"), 0, 8, id="a shard that never lives is a crash loop"),
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


def test_data_that_were_never_there_are_a_mistake_and_those_that_vanished_a_loss() -> None:
    missing = cause_of(MissingPlaceError("dataset.uri x does not exist"))
    budget = RestartBudget()
    assert budget.judged(missing, start=0, step=0) == Cause(Kind.USER, missing.sentence)
    assert budget.judged(LOST, start=0, step=5) == LOST
    assert budget.judged(missing, start=0, step=0) == missing
    assert budget.spend(missing, start=0, step=0, checkpoint=None)


def test_a_loaders_error_survives_its_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(LoaderError("died", Ended.MEMORY)))
    assert (str(error), error.how) == ("died", Ended.MEMORY)


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
        pytest.param(
            Cause(Kind.SERVER, "shard 1 was lost"),
            8,
            "training failed (8 times in a row without getting further): shard 1 was lost",
            Failure.PARAMETER_SERVER_LOST,
            id="a part of the parameter server",
        ),
        pytest.param(Cause(Kind.MEMORY, "oom"), 1, "oom", Failure.OUT_OF_MEMORY, id="memory"),
    ],
)
def test_final_sentence(cause: Cause, failures: int, sentence: str, reason: Failure) -> None:
    assert final_sentence(cause, failures) == (sentence, reason)
