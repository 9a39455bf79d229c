"""What reading data raises besides UserError and UnreadableError; named apart by whether trying again helps.

A damaged file is there again at the next try. A mount that vanished, a store that does not answer and a reading
process that was killed are not the data's fault, and may be better after a restart.
"""

from __future__ import annotations

from enum import Enum

from scaling_api.redaction import redacted
from scaling_training.errors import UserError


class DataLostError(Exception):
    """The place where the data lies, which was there before, does not answer."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class MissingPlaceError(UserError):
    """There is no such place. A user's mistake, unless something was trained from it before."""


class Ended(Enum):
    """How a reading process ended before its time."""

    MEMORY = "memory"  # the kernel ended it for lack of memory
    KILLED = "killed"  # somebody else did
    CRASHED = "crashed"  # by itself


class LoaderError(Exception):
    """A reading process ended before its time."""

    def __init__(self, message: str, how: Ended) -> None:
        super().__init__(message)
        self.how = how

    def __reduce__(self) -> tuple[type[LoaderError], tuple[str, Ended]]:
        return (LoaderError, (str(self), self.how))
