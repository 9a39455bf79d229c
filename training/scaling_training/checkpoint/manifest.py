"""The manifest: the file whose presence commits a checkpoint, and what it says.

It lists size and SHA-256 of every file and is written last, so a checkpoint without one was never finished. It ends
with a hash of itself, so that not one byte of a checkpoint can change unseen, and names files of its own folder only.
It also carries what retention and resume must know without opening a file: the key of the work (a checkpoint
of another model or another data set is never resumed from), the validation metrics, and which checkpoint was
the best so far.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from scaling_training.formats import check_format

MANIFEST = "MANIFEST.json"
# The weights when one process wrote them all; of several, each writes a file with its number.
WHOLE_MODEL = "model.safetensors"
FORMAT = 3
_SEAL = "sha256"


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """Which checkpoint: small, picklable, and JSON by `to_dict`."""

    folder: str  # relative to the run folder, e.g. checkpoints/attempt-0001/step-00000123
    attempt: int
    step: int
    root: str | None = None  # root of the run folder when it is another run's (resumeFrom), else None

    def to_dict(self) -> dict[str, str | int | None]:
        """Plain values, for a ledger."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, object]) -> CheckpointRef:
        """The inverse of `to_dict`; raises ValueError when a field is missing, of another type, or leads elsewhere."""
        folder, attempt, step, root = (value.get(name) for name in ("folder", "attempt", "step", "root"))
        if not (isinstance(folder, str) and isinstance(attempt, int) and isinstance(step, int)):
            raise ValueError(f"not a checkpoint reference: {dict(value)}")
        if root is not None and not isinstance(root, str):
            raise ValueError(f"not a checkpoint reference: {dict(value)}")
        path = PurePosixPath(folder)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{folder!r} leaves the run folder")
        return cls(folder, attempt, step, root)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What a file must be."""

    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, data: bytes | bytearray) -> FileEntry:
        """The entry of a file with this content."""
        return cls(len(data), hashlib.sha256(data).hexdigest())


class DamagedError(Exception):
    """A checkpoint is not what its manifest says, or has none; the message names the file."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A committed checkpoint's description."""

    attempt: int
    step: int
    epoch: int  # epochs done
    key: str
    files: Mapping[str, FileEntry]
    metrics: Mapping[str, float]  # of the validation at this point; empty in mid-epoch
    best: CheckpointRef | None  # the best so far; this one itself among the candidates

    def to_bytes(self) -> bytes:
        """As JSON; equal manifests give equal bytes."""
        return _sealed({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str = MANIFEST) -> Manifest:
        """The inverse of `to_bytes`, of the file at ``where``.

        Raises DamagedError when it is not a manifest of ours, or not as it was written, and ForeignError when it is one
        in another format.
        """
        try:
            value = json.loads(data)
            check_format(value["format"], FORMAT, where)
            if _sealed({name: entry for name, entry in value.items() if name != _SEAL}) != data:
                raise DamagedError(f"{MANIFEST} has another content than was written")
            for name in value["files"]:
                if "/" in name or name in ("", ".", ".."):
                    raise DamagedError(f"{MANIFEST} names {name!r}, which is no file of its folder")
            return cls(
                attempt=int(value["attempt"]),
                step=int(value["step"]),
                epoch=int(value["epoch"]),
                key=str(value["key"]),
                files={
                    name: FileEntry(int(entry["size_bytes"]), str(entry["sha256"]))
                    for name, entry in value["files"].items()
                },
                metrics={name: float(number) for name, number in value["metrics"].items()},
                best=CheckpointRef.from_dict(value["best"]) if value["best"] is not None else None,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"{MANIFEST} is not readable ({error})") from error

    @property
    def seal(self) -> str:
        """SHA-256 that stands for the checkpoint's whole content, wherever it lies."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def is_whole(self) -> bool:
        """Whether one process wrote every tensor as a whole, so that the checkpoint fits into one process."""
        return WHOLE_MODEL in self.files

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(entry.size_bytes for entry in self.files.values())

    def entry(self, name: str) -> FileEntry:
        """What file ``name`` must be; DamagedError when it is none of the checkpoint's."""
        try:
            return self.files[name]
        except KeyError:
            raise DamagedError(f"{MANIFEST} does not list {name}") from None

    def verify(self, name: str, data: bytes) -> bytes:
        """``data`` when it is what the manifest says of file ``name``; DamagedError otherwise."""
        entry = self.entry(name)
        if len(data) != entry.size_bytes:
            raise DamagedError(f"{name} has {len(data)} bytes instead of {entry.size_bytes}")
        if FileEntry.of(data).sha256 != entry.sha256:
            raise DamagedError(f"{name} has another content than its manifest says")
        return data


def _sealed(value: dict[str, Any]) -> bytes:
    """As JSON, with the hash of the same without it."""
    digest = hashlib.sha256(_json(value)).hexdigest()
    return _json({**value, _SEAL: digest})


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
