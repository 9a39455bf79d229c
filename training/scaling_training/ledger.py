"""The ledger: which attempt may write, and which stages are finished.

Layout in the run folder::

    attempts/0002.json                claimed by an exclusive create when the attempt starts
    ledger/attempt-0002/train.json    one record per stage that ended in that attempt

The attempt's number is the fencing token. A process that was frozen while a later attempt took over finds
the higher number before each write and steps aside; what it wrote before lies in places of its own and does
no harm.

A stage is keyed by a digest of all that its result depends on. A record of the same digest, in this run or in
the one that resumeFrom names, means that the stage is done.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scaling_training.clock import utc
from scaling_training.errors import UserError
from scaling_training.formats import check_format
from scaling_training.storage import Storage

ATTEMPTS = "attempts"
LEDGER = "ledger"
RECORD_FORMAT = 1

Output = dict[str, Any]

_ATTEMPT_FILE = re.compile(r"^(\d{4,})\.json$")
_LEDGER_FOLDER = re.compile(r"^attempt-(\d{4,})$")


class SupersededError(Exception):
    """A higher attempt exists: whatever this process still does must leave no trace."""

    def __init__(self, attempt: int, by: int) -> None:
        super().__init__(f"attempt {attempt} was superseded by attempt {by}")


class AttemptTakenError(Exception):
    """Somebody has started this very attempt already."""


@dataclass(frozen=True, slots=True)
class Record:
    """How a stage ended."""

    stage: str
    digest: str
    state: Literal["Succeeded", "Reused", "Failed"]
    started_at: str
    finished_at: str
    output: Output
    message: str = ""
    root: str | None = None  # the run folder that the output speaks of, when it is another run's

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps(
            {
                "format": RECORD_FORMAT,
                "stage": self.stage,
                "digest": self.digest,
                "state": self.state,
                "startedAt": self.started_at,
                "finishedAt": self.finished_at,
                "output": self.output,
                "message": self.message,
                "root": self.root,
            },
            indent=1,
            sort_keys=True,
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Record:
        """The inverse of `to_bytes`, of the file at ``where``.

        UserError when it is not readable, ForeignError when another version wrote it in another format: work that was
        done is not done again, nor its record written over, because of that.
        """
        try:
            value = json.loads(data)
            # The first releases wrote none.
            check_format(value.get("format", RECORD_FORMAT), RECORD_FORMAT, where)
            return cls(
                stage=value["stage"],
                digest=value["digest"],
                state=value["state"],
                started_at=value["startedAt"],
                finished_at=value["finishedAt"],
                output=value["output"],
                message=value["message"],
                root=value["root"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{where}, which says how a stage ended, is not readable ({type(error).__name__}: {error}): "
                "put it back, or delete it to have the stage done again"
            ) from error


class Ledger:
    """The ledger of a run folder, written by one attempt; ``previous`` is the run folder of resumeFrom."""

    def __init__(self, storage: Storage, *, attempt: int, previous: Storage | None = None) -> None:
        self._storage = storage
        self._previous = previous
        self.attempt = attempt

    def claim(self, about: Mapping[str, Any]) -> None:
        """Claim the attempt, before anything else is written.

        Raises AttemptTakenError when it was claimed before, SupersededError when a higher one was.
        """
        content = {"attempt": self.attempt, "startedAt": utc(), "host": platform.node(), **about}
        if not self._storage.create(attempt_file(self.attempt), json.dumps(content, indent=1).encode()):
            raise AttemptTakenError(
                f"attempt {self.attempt} of {self._storage.url()} was started before; "
                "each attempt has one driver, so start the next one instead"
            )
        self.check()

    def check(self) -> None:
        """Raise SupersededError when a higher attempt exists."""
        highest = latest_attempt(self._storage)
        if highest > self.attempt:
            raise SupersededError(self.attempt, highest)

    def write(self, record: Record) -> None:
        """Add a record of this attempt, unless it was superseded."""
        self.publish(f"{LEDGER}/attempt-{self.attempt:04d}/{record.stage}.json", record.to_bytes())

    def publish(self, name: str, data: bytes) -> None:
        """Write a file that all attempts share (result.json), unless this one was superseded.

        That is looked for before the write: one that was frozen within it ends it when it wakes up.
        """
        self.check()
        self._storage.write(name, data)

    def finished(self, stage: str, digest: str) -> Iterator[Record]:
        """Records of the stage with this digest whose outcome was good, newest first, this run's before another's."""
        yield from _finished(self._storage, stage, digest, root=None)
        if self._previous is not None:
            yield from _finished(self._previous, stage, digest, root=self._previous.root)


def attempt_file(attempt: int) -> str:
    """The file whose being there claims an attempt."""
    return f"{ATTEMPTS}/{attempt:04d}.json"


def latest_attempt(storage: Storage) -> int:
    """The highest attempt that was ever claimed in a run folder; 0 when none was."""
    matches = (_ATTEMPT_FILE.match(name) for name in storage.names(ATTEMPTS))
    return max((int(match.group(1)) for match in matches if match), default=0)


def digest(parts: Mapping[str, Any]) -> str:
    """SHA-256 of the parts as canonical JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _finished(storage: Storage, stage: str, digest: str, *, root: str | None) -> Iterator[Record]:
    folders = [name for name in storage.names(LEDGER) if _LEDGER_FOLDER.match(name)]
    for folder in sorted(folders, reverse=True):
        name = f"{LEDGER}/{folder}/{stage}.json"
        try:
            data = storage.read(name)
        except FileNotFoundError:
            continue
        record = Record.from_bytes(data, where=storage.url(name))
        if record.digest == digest and record.state in ("Succeeded", "Reused"):
            yield Record(
                stage=record.stage,
                digest=record.digest,
                state=record.state,
                started_at=record.started_at,
                finished_at=record.finished_at,
                output=record.output,
                message=record.message,
                root=record.root or root,
            )
