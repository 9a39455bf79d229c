"""What the engine says when training cannot go on."""

from __future__ import annotations

from scaling_api.reasons import Failure


class EngineError(Exception):
    """The attempt failed; another one may do better. One sentence, and its reason in one word."""

    def __init__(self, message: str, reason: Failure = Failure.DRIVER_FAILED) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[EngineError], tuple[str, Failure]]:
        return (EngineError, (str(self), self.reason))
