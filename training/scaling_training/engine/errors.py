"""What the engine says when training cannot go on."""

from __future__ import annotations

from collections.abc import Sequence

from scaling_api.reasons import Failure


class EngineError(Exception):
    """The attempt failed; another one may do better. One sentence, and its reason in one word."""

    def __init__(self, message: str, reason: Failure = Failure.DRIVER_FAILED) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[EngineError], tuple[str, Failure]]:
        return (EngineError, (str(self), self.reason))


class GivenUpError(Exception):
    """Nobody waits for the group any more."""


class NoAnswerError(Exception):
    """Training processes, by rank, have said nothing for so many seconds while their group started."""

    def __init__(self, ranks: Sequence[int], seconds: float) -> None:
        named = "training process" if len(ranks) == 1 else "training processes"
        super().__init__(
            f"{named} {', '.join(map(str, ranks))} did not answer within {seconds:.0f} s as the group started"
        )
