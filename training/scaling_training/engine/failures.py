"""What a failure of the worker group means, and whether to start the group again.

Ray reports one error per rank, and most of them are echoes: when one process dies, the others' collectives
fail. So the most telling error speaks for the group: a user's mistake, then memory, then an error of the
program, then a lost process, then echoes.

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
from scaling_training.errors import UserError


class Kind(IntEnum):
    """Most telling first."""

    USER = 0
    MEMORY = 1
    PROGRAM = 2
    LOST = 3
    ECHO = 4
    NO_ROOM = 5


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
    Kind.PROGRAM: 3,
    Kind.LOST: 8,
    Kind.ECHO: 8,
    Kind.NO_ROOM: None,
}

# Gloo and NCCL say in these words that the other side went away.
_ECHOES = ("Connection closed by peer", "Connection reset by peer", "connection refused", "Socket closed", "NCCL")
_MEMORY = (
    "OutOfMemoryError",
    "killed due to the node running low on memory",
    "CUDA out of memory",
    # What torch's allocator says on a CPU, in a RuntimeError.
    "can't allocate memory",
)
_MEMORY_NAMES = ("OutOfMemoryError", "MemoryError", "_ArrayMemoryError")
_MEMORY_HELP = (
    "the worker ran out of memory: raise the workers' memory limit, or training.accumulation, which cuts each "
    "worker's share of a batch into smaller pieces, or set training.activationCheckpointing"
)


def cause_of(error: BaseException, *, rank: int | None = None) -> Cause:
    """The cause that one process's error shows."""
    if isinstance(error, UserError):
        return Cause(Kind.USER, str(error))
    name, text = type(error).__name__, str(error)
    who = "a training process" if rank is None else f"training process {rank}"
    if name in _MEMORY_NAMES or any(sign in text for sign in _MEMORY):
        return Cause(Kind.MEMORY, _MEMORY_HELP)
    if name in ("ActorDiedError", "ActorUnavailableError", "RayActorError", "NodeDiedError"):
        return Cause(Kind.LOST, f"{who} was lost")
    if name == "WorkerHealthCheckTimeoutError":
        return Cause(Kind.LOST, f"{who} stopped answering")
    if any(sign.lower() in text.lower() for sign in _ECHOES):
        return Cause(Kind.ECHO, f"{who} lost its connection to another one")
    return Cause(Kind.PROGRAM, f"{name} in {who}: {_last_line(text)}", may_pass=isinstance(error, OSError))


def most_telling(causes: Iterable[Cause]) -> Cause:
    """The cause that speaks for the group."""
    return min(causes, key=lambda cause: cause.kind, default=Cause(Kind.LOST, "the worker group ended without a word"))


class RestartBudget:
    """Counts failures in a row; pure but for its own counters."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._furthest = 0
        self._checkpoint: str | None = None
        self._last: tuple[str, int] | None = None

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
        gained = gained_steps if cause.kind in (Kind.LOST, Kind.ECHO) else gained_checkpoint
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
    return f"training failed{again}: {cause.sentence}", Failure.DRIVER_FAILED


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "no message"
