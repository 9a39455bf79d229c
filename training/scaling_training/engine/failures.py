"""What a failure of the worker group means, and whether to start the group again.

Ray reports one error per rank, and most of them are echoes: when one process dies, the others' collectives
fail. So the most telling error speaks for the group: a user's mistake, then memory, then lost data, then an
error of the program, then a lost part of the parameter server, then a lost process, then echoes.

A loss is not the program's fault and is met by a restart as often as it happens, as long as training gets
further in between: groups that die again and again before they are past the furthest step so far will not live the
next time either. An error of the program or of memory counts until a new checkpoint is committed, because it is likely
to come back at the same place; an error of the program that has come back there, word for word, is final.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from scaling_api.reasons import Failure
from scaling_api.redaction import redacted
from scaling_training.data.errors import DataLostError, Ended, LoaderError, MissingPlaceError
from scaling_training.engine.errors import NoAnswerError
from scaling_training.errors import UserError
from scaling_training.factory import place_of
from scaling_training.update.errors import ServerLostError


class Kind(IntEnum):
    """Most telling first."""

    USER = 0
    MEMORY = 1
    DATA = 2  # what was read a moment ago cannot be reached
    NO_DATA = 3  # the data are not where they should be, as the training processes start
    PROGRAM = 4
    SERVER = 5  # an actor of the parameter server was lost
    LOST = 6
    ECHO = 7
    NO_ROOM = 8


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a worker group ended."""

    kind: Kind
    sentence: str
    may_pass: bool = False  # an error of the program that comes from outside it: of storage, or of the network


# How many failures in a row, without anything gained in between, end the attempt. Room is the operator's
# business, and it comes when it comes.
LIMITS: Mapping[Kind, int | None] = {
    Kind.USER: 1,
    Kind.MEMORY: 2,
    Kind.DATA: 8,
    Kind.NO_DATA: 8,
    Kind.PROGRAM: 3,
    Kind.SERVER: 8,
    Kind.LOST: 8,
    Kind.ECHO: 8,
    Kind.NO_ROOM: None,
}

# Met as often as they come while training gets somewhere.
_LOSSES = (Kind.DATA, Kind.NO_DATA, Kind.SERVER, Kind.LOST, Kind.ECHO)

# Gloo and NCCL say in these words that the other side went away. NCCL's name alone says nothing: it also stands in
# what comes of a wrong setup, which no restart mends.
_ECHOES = (
    "Connection closed by peer",
    "Connection reset by peer",
    "connection refused",
    "Socket closed",
    "Connection closed by remote peer",
    "ncclRemoteError",
    "NCCL communicator was aborted",
    "NCCL operations have failed or timed out",
    "Watchdog caught collective operation timeout",
    # Gloo's "Timed out waiting 1800000ms for recv operation to complete", and what its other pairs say then.
    "ms for recv operation to complete",
    "ms for send operation to complete",
    "Application timeout caused pair closure",
)
_GPU_MEMORY = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    # In NCCL's unhandled CUDA error.
    "Cuda failure 2 'out of memory'",
)
_GPU_MEMORY_HELP = (
    "a GPU's memory is full: raise training.accumulation, which cuts each worker's share of a batch into smaller "
    "pieces, set training.activationCheckpointing, or divide the model by training.parallelism.fsdp"
)
_MEMORY = (
    "OutOfMemoryError",
    "killed due to the node running low on memory",
    # What torch's allocator says on a CPU, in a RuntimeError.
    "can't allocate memory",
)
_MEMORY_NAMES = ("OutOfMemoryError", "MemoryError", "_ArrayMemoryError")
_MEMORY_HELP = (
    "the worker ran out of memory: raise the workers' memory limit, or training.accumulation, which cuts each "
    "worker's share of a batch into smaller pieces, or set training.activationCheckpointing"
)

# A crash comes again at the same file; who was killed may live the next time.
_READERS = {Ended.MEMORY: Kind.MEMORY, Ended.KILLED: Kind.LOST, Ended.CRASHED: Kind.PROGRAM}
_SERVER_HELP = (
    "it runs beside the driver and keeps weights and optimizer state: when it comes again, raise the memory limit of "
    "cluster.head"
)


def cause_of(error: BaseException, *, rank: int | None = None) -> Cause:
    """The cause that one process's error shows."""
    if isinstance(error, MissingPlaceError):
        return Cause(Kind.NO_DATA, str(error))
    if isinstance(error, UserError):
        return Cause(Kind.USER, str(error))
    if isinstance(error, DataLostError):
        return Cause(Kind.DATA, str(error))
    if isinstance(error, LoaderError):
        return Cause(_READERS[error.how], str(error))
    if isinstance(error, ServerLostError):
        return Cause(Kind.SERVER, f"{error} was lost; {_SERVER_HELP}")
    if isinstance(error, NoAnswerError):
        return Cause(Kind.LOST, str(error))
    name, text = type(error).__name__, str(error)
    who = "a training process" if rank is None else f"training process {rank}"
    if any(sign in text for sign in _GPU_MEMORY):
        return Cause(Kind.MEMORY, _GPU_MEMORY_HELP)
    if name in _MEMORY_NAMES or any(sign in text for sign in _MEMORY):
        return Cause(Kind.MEMORY, _MEMORY_HELP)
    if name in ("ActorDiedError", "ActorUnavailableError", "RayActorError", "NodeDiedError"):
        return Cause(Kind.LOST, f"{who} was lost")
    if name == "WorkerHealthCheckTimeoutError":
        return Cause(Kind.LOST, f"{who} stopped answering")
    if any(sign.lower() in text.lower() for sign in _ECHOES):
        return Cause(Kind.ECHO, f"{who} lost its connection to another one")
    place = place_of(error)
    where = f"{who}, at {place}" if place else who
    return Cause(Kind.PROGRAM, f"{name} in {where}: {_last_line(text)}", may_pass=isinstance(error, OSError))


def most_telling(causes: Iterable[Cause]) -> Cause:
    """The cause that speaks for the group."""
    return min(causes, key=lambda cause: cause.kind, default=Cause(Kind.LOST, "the worker group ended without a word"))


class RestartBudget:
    """Counts failures in a row; pure but for its own counters."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._furthest = 0
        self._checkpoint: str | None = None
        self._trained = False
        self._last: tuple[str, int] | None = None

    def judged(self, cause: Cause, *, start: int, step: int) -> Cause:
        """The cause in the light of what was before: data that were never there are the user's mistake."""
        self._trained = self._trained or step > start
        if cause.kind is Kind.NO_DATA and not self._trained:
            return Cause(Kind.USER, cause.sentence)
        return cause

    def spend(self, cause: Cause, *, start: int, step: int, checkpoint: str | None) -> bool:
        """Whether to start again after this failure.

        ``start`` and ``step`` are the optimizer steps at which the failed group began and ended, ``checkpoint`` is
        the last committed one that is known.
        """
        limit = LIMITS[cause.kind]
        if limit is None:
            return True
        gained_checkpoint = checkpoint is not None and checkpoint != self._checkpoint
        self._checkpoint = checkpoint or self._checkpoint
        gained_steps = step > max(start, self._furthest)
        self._furthest = max(step, self._furthest)
        gained = gained_steps if cause.kind in _LOSSES else gained_checkpoint
        self._in_a_row = 1 if gained else self._in_a_row + 1
        last, self._last = self._last, (cause.sentence, step)
        if cause.kind is Kind.PROGRAM and not cause.may_pass and self._last == last:
            # The very same error at the very same step: it follows from the program, and would come a third time.
            return False
        return self._in_a_row < limit

    @property
    def in_a_row(self) -> int:
        """Failures without anything gained in between."""
        return self._in_a_row


def final_sentence(cause: Cause, failures: int) -> tuple[str, Failure]:
    """What to say when the budget is spent, and the reason in one word."""
    again = f" ({failures} times in a row without getting further)" if failures > 1 else ""
    if cause.kind is Kind.MEMORY:
        return cause.sentence + again, Failure.OUT_OF_MEMORY
    reason = Failure.PARAMETER_SERVER_LOST if cause.kind is Kind.SERVER else Failure.DRIVER_FAILED
    return f"training failed{again}: {cause.sentence}", reason


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return redacted(lines[-1])[:400] if lines else "no message"
