"""Saving, finding and deleting the checkpoints of a run.

Layout: ``checkpoints/attempt-0001/step-00000123/{model.safetensors, training.pt, history.jsonl, MANIFEST.json}``.
An attempt writes to its own folder alone, so a frozen process of an earlier attempt that wakes up damages
nothing. What an attempt starts from, its base, is looked for once and recorded in the attempt's folder by an
exclusive create: however often its workers restart, and whatever an earlier attempt writes meanwhile, the
base stays the same. Within the attempt the newest committed checkpoint is preferred to the base.

A checkpoint counts only when its manifest is there and every file has the size and hash that it says. One that
fails is passed over with a warning, and the one before it is used.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from scaling_training.checkpoint.manifest import MANIFEST, CheckpointRef, DamagedError, FileEntry, Manifest
from scaling_training.storage import Storage

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
BASE = "BASE.json"


class OtherKeyError(Exception):
    """A checkpoint belongs to other work."""


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A verified checkpoint in memory."""

    ref: CheckpointRef
    manifest: Manifest
    files: Mapping[str, bytes]


class Checkpoints:
    """The checkpoints of a run, as seen and written by one attempt.

    ``key`` names the work (see `scaling_training.checkpoint.key`): a checkpoint with another key is not
    resumed from. ``keep`` is how many of the latest of this attempt stay; the best one stays besides.
    """

    def __init__(self, storage: Storage, *, attempt: int, key: str, keep: int = 2) -> None:
        self._storage = storage
        self._attempt = attempt
        self._key = key
        self._keep = keep
        self._folder = f"{FOLDER}/attempt-{attempt:04d}"

    def base(self, resume: CheckpointRef | None = None) -> CheckpointRef | None:
        """What this attempt starts from, decided at the first call and the same ever after.

        It is ``resume`` when given (e.g. from another run), else the newest good checkpoint of the attempts
        below this one, else None.
        """
        name = f"{self._folder}/{BASE}"
        if not self._storage.exists(name):
            found = resume or self._newest_before()
            self._storage.create(name, json.dumps({"base": found and found.to_dict()}).encode())
        recorded = json.loads(self._storage.read(name))["base"]
        return CheckpointRef.from_dict(recorded) if recorded else None

    def latest_committed(self, *, base: CheckpointRef | None = None) -> CheckpointRef | None:
        """The newest good checkpoint of this attempt, else ``base`` or the newest good one before it, else None.

        Good means: committed, of this key, and every file verified.
        """
        loaded = self.load_latest(base=base)
        return loaded.ref if loaded else None

    def load_latest(self, *, base: CheckpointRef | None = None) -> LoadedCheckpoint | None:
        """What `latest_committed` finds, with its content: each file is read once and verified as it is read."""
        own = self._newest_in(self._storage, self._attempt)
        if own is not None or base is None:
            return own
        storage = Storage(base.root) if base.root is not None else self._storage
        return self._newest_in(storage, base.attempt, up_to=base.step, root=base.root)

    def save(
        self,
        step: int,
        files: Mapping[str, bytes],
        *,
        epoch: int,
        metrics: Mapping[str, float],
        best: CheckpointRef | None,
        is_best: bool,
    ) -> CheckpointRef:
        """Write and commit; then delete what retention no longer keeps. ``best`` is the best before this one."""
        ref = CheckpointRef(f"{self._folder}/step-{step:08d}", self._attempt, step)
        # A leftover of the same step: without its manifest nobody reads it while the files are replaced.
        self._storage.delete(f"{ref.folder}/{MANIFEST}")
        for name, data in files.items():
            self._storage.write(f"{ref.folder}/{name}", data)
        manifest = Manifest(
            attempt=self._attempt,
            step=step,
            epoch=epoch,
            key=self._key,
            files={name: FileEntry.of(data) for name, data in files.items()},
            metrics=dict(metrics),
            best=ref if is_best else best,
        )
        self._storage.write(f"{ref.folder}/{MANIFEST}", manifest.to_bytes())
        self._retain(ref, manifest.best)
        return ref

    def _retain(self, newest: CheckpointRef, best: CheckpointRef | None) -> None:
        """Keep the newest `keep` up to ``newest`` and the best. Only this attempt's folder is touched."""
        kept = 0
        for step, folder in _steps(self._storage, self._attempt):
            if best is not None and best.root is None and folder == best.folder:
                kept += step <= newest.step
            elif step <= newest.step and kept < self._keep:
                kept += 1
            else:
                # The manifest goes first: a deletion cut short leaves an uncommitted folder, not a damaged one.
                self._storage.delete(f"{folder}/{MANIFEST}")
                self._storage.delete(folder, recursive=True)

    def _newest_before(self) -> CheckpointRef | None:
        for attempt in range(self._attempt - 1, 0, -1):
            if found := self._newest_in(self._storage, attempt):
                return found.ref
        return None

    def _newest_in(
        self, storage: Storage, attempt: int, *, up_to: int | None = None, root: str | None = None
    ) -> LoadedCheckpoint | None:
        for step, folder in _steps(storage, attempt):
            if up_to is not None and step > up_to:
                continue
            try:
                loaded = load_checkpoint(storage, CheckpointRef(folder, attempt, step, root), key=self._key)
            except DamagedError as error:
                log.warning("Checkpoint %s is passed over: %s; looking for the one before it", folder, error)
                continue
            except OtherKeyError:
                log.info("Checkpoint %s belongs to another model, data set or training section", folder)
                continue
            return loaded
        return None


def load_checkpoint(storage: Storage, ref: CheckpointRef, *, key: str | None = None) -> LoadedCheckpoint:
    """Read and verify a checkpoint of the run in ``storage``, or of the run that ``ref.root`` names.

    Raises DamagedError naming the file that is not as its manifest says, and OtherKeyError when ``key`` is
    given and the checkpoint has another one; then no file but the manifest was read.
    """
    if ref.root is not None and ref.root != storage.root:
        storage = Storage(ref.root)
    try:
        manifest = Manifest.from_bytes(storage.read(f"{ref.folder}/{MANIFEST}"))
    except FileNotFoundError:
        raise DamagedError(f"{MANIFEST} is missing, so it was never committed") from None
    if key is not None and manifest.key != key:
        raise OtherKeyError(ref.folder)
    return LoadedCheckpoint(ref, manifest, {name: _read(storage, ref, manifest, name) for name in manifest.files})


def _read(storage: Storage, ref: CheckpointRef, manifest: Manifest, name: str) -> bytes:
    try:
        return manifest.verify(name, storage.read(f"{ref.folder}/{name}"))
    except FileNotFoundError:
        raise DamagedError(f"{name} is missing") from None


def _steps(storage: Storage, attempt: int) -> Iterator[tuple[int, str]]:
    """Steps and folders of an attempt's checkpoints, newest first, committed or not."""
    folder = f"{FOLDER}/attempt-{attempt:04d}"
    for name in sorted(storage.names(folder), reverse=True):
        prefix, _, number = name.partition("-")
        if prefix == "step" and number.isdigit():
            yield int(number), f"{folder}/{name}"
