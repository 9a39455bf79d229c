"""Finding, committing and deleting the checkpoints of a run.

Layout: ``checkpoints/attempt-0001/step-00000123/`` with the files that `scaling_training.checkpoint.state` tells of
and ``MANIFEST.json``. An attempt writes to its own folder alone, so a frozen process of an earlier attempt that
wakes up damages nothing. What an attempt starts from, its base, is looked for once and recorded in the attempt's
folder by an exclusive create: however often its workers restart, and whatever an earlier attempt writes meanwhile,
the base stays the same. Within the attempt the newest committed checkpoint is preferred to the base.

A checkpoint counts only when its manifest is there and every file has the size and hash that it says. One that
fails is passed over with a warning, and the one before it is used.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from scaling_training.checkpoint.manifest import MANIFEST, CheckpointRef, DamagedError, FileEntry, Manifest
from scaling_training.errors import UserError
from scaling_training.storage import Storage

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
BASE = "BASE.json"


class OtherKeyError(Exception):
    """A checkpoint belongs to other work."""


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A committed checkpoint whose files are verified before anybody sees their content."""

    ref: CheckpointRef
    manifest: Manifest
    storage: Storage  # the run folder that it lies in
    kept: Mapping[str, bytes]  # files that are in memory already, verified

    def read(self, name: str) -> bytes:
        """A file's content; DamagedError naming the file when it is not as the manifest says."""
        if name in self.kept:
            return self.kept[name]
        self.manifest.entry(name)  # what is not listed is not even read
        try:
            return self.manifest.verify(name, self.storage.read(f"{self.ref.folder}/{name}"))
        except FileNotFoundError:
            raise DamagedError(f"{name} is missing") from None


class Checkpoints:
    """The checkpoints of a run, as seen and written by one attempt.

    ``key`` names the work (see `scaling_training.checkpoint.key`): a checkpoint with another key is not
    resumed from. ``keep`` is how many of the latest stay; the best one stays besides.
    """

    def __init__(self, storage: Storage, *, attempt: int, key: str, keep: int = 2) -> None:
        self.storage = storage
        self.attempt = attempt
        self._key = key
        self._keep = keep
        self._folder = f"{FOLDER}/attempt-{attempt:04d}"
        # Earlier attempts that have nothing left to delete.
        self._pruned: set[int] = set()

    def load_latest(
        self, resume: CheckpointRef | None = None, *, reading: Callable[[Manifest], None] = lambda manifest: None
    ) -> LoadedCheckpoint | None:
        """What this attempt goes on from, every file read and verified; None when it begins from nothing.

        That is its own newest good checkpoint, else its base, or the one before that when it is damaged. The base is
        looked for at the first call and stays the same ever after: the newest good one of the attempts below this
        one, else the newest good one of another run, of which ``resume`` was the newest when it was looked for: while
        that run trains on, it deletes that one in favour of newer ones. Of a whole checkpoint the content is kept.
        ``reading`` is called with the manifest of each before its files are read.

        UserError when there is neither the base nor one before it any more, or when all that this run has committed are
        damaged and there is no ``resume``: to train from the start would undo work that was counted on, and retention
        would delete what may be mended.
        """
        damaged: list[Manifest] = []

        def noted(manifest: Manifest) -> None:
            damaged.append(manifest)
            reading(manifest)

        load = functools.partial(load_checkpoint, reading=noted)
        own = _first(self.storage, [self.attempt], load, key=self._key)
        if own is not None:
            return own
        name = f"{self._folder}/{BASE}"
        if not self.storage.exists(name):
            earlier = [other for other in attempts_of(self.storage) if other < self.attempt]
            found = _first(self.storage, earlier, load, key=self._key)
            if found is None and resume is not None:
                found = self._newest_of(resume, load)
            if found is None and damaged:
                raise self._lost(self.storage, _folder(damaged[0].attempt, damaged[0].step))
            if self.storage.create(name, json.dumps({"base": found and found.ref.to_dict()}).encode()):
                return found
        base = self._recorded_base(name)
        if base is not None:
            return self._at_or_before(base, load)
        if damaged:
            raise self._lost(self.storage, _folder(damaged[0].attempt, damaged[0].step))
        return None

    def _recorded_base(self, name: str) -> CheckpointRef | None:
        try:
            recorded = json.loads(self.storage.read(name))["base"]
            return CheckpointRef.from_dict(recorded) if recorded else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.storage.url(name)}, which says what attempt {self.attempt} started from, is not readable "
                f"({error}); delete it to have that looked for again"
            ) from error

    def _newest_of(self, resume: CheckpointRef, load: Callable[..., LoadedCheckpoint]) -> LoadedCheckpoint:
        """The newest good one of the run that ``resume`` was the newest of; that run may go on and delete it."""
        assert resume.root is not None, "of another run"
        storage = Storage(resume.root)
        found = _first(storage, attempts_of(storage), load, key=self._key)
        if found is None:
            raise self._lost(storage, resume.folder)
        return replace(found, ref=replace(found.ref, root=resume.root))

    def _at_or_before(self, base: CheckpointRef, load: Callable[..., LoadedCheckpoint]) -> LoadedCheckpoint:
        storage = Storage(base.root) if base.root is not None else self.storage
        attempts = [attempt for attempt in attempts_of(storage) if attempt <= base.attempt]
        found = _first(storage, attempts, load, key=self._key, up_to=base)
        if found is None:
            raise self._lost(storage, base.folder)
        return found

    def _lost(self, storage: Storage, folder: str) -> UserError:
        return UserError(
            f"checkpoint {folder} of {storage.url()}, which attempt {self.attempt} goes on from, is no longer "
            "there or damaged, and so are those before it: put its files back, or train from the start in a new run"
        )

    def reference(self, step: int) -> CheckpointRef:
        """The checkpoint of this step, saved or not."""
        return CheckpointRef(_folder(self.attempt, step), self.attempt, step)

    def begin(self, ref: CheckpointRef) -> None:
        """Make room for the files of a checkpoint. What was left there of the same step is deleted, manifest first."""
        self._delete(ref.folder)

    def write(self, ref: CheckpointRef, name: str, data: bytes | bytearray) -> FileEntry:
        """Write a file; returns what the manifest must say of it. Any process may do so after `begin`."""
        entry = FileEntry.of(data)
        self.storage.write(f"{ref.folder}/{name}", data)
        return entry

    def commit(
        self,
        ref: CheckpointRef,
        files: Mapping[str, FileEntry],
        *,
        epoch: int,
        metrics: Mapping[str, float],
        best: CheckpointRef | None,
        is_best: bool,
    ) -> None:
        """Write the manifest, then delete what retention no longer keeps.

        All ``files`` must have been written. ``best`` is the best checkpoint before this one.
        """
        manifest = Manifest(
            attempt=self.attempt,
            step=ref.step,
            epoch=epoch,
            key=self._key,
            files=dict(files),
            metrics=dict(metrics),
            best=ref if is_best else best,
        )
        self.storage.write(f"{ref.folder}/{MANIFEST}", manifest.to_bytes())
        self._retain(ref, manifest.best)

    def _retain(self, newest: CheckpointRef, best: CheckpointRef | None) -> None:
        """Keep the newest `keep`, this attempt's before the earlier ones', and the best.

        Earlier attempts' are touched only here, when this attempt has one of its own and its base is no longer
        what a restart begins with; folders of later attempts never.
        """
        kept = 0
        best_folder = best.folder if best is not None and best.root is None else None
        for step, folder in _steps(self.storage, self.attempt):
            committed = step == newest.step or self.storage.exists(f"{folder}/{MANIFEST}")
            if step > newest.step or not committed:
                # Of a future that was given up, for training went on from before it; or of a save that was cut short.
                self._delete(folder)
            elif kept < self._keep or folder == best_folder:
                kept += 1
            else:
                self._delete(folder)
        for attempt in attempts_of(self.storage):
            if attempt < self.attempt and attempt not in self._pruned:
                kept += self._retain_earlier(attempt, room=self._keep - kept, best_folder=best_folder)

    def _retain_earlier(self, attempt: int, *, room: int, best_folder: str | None) -> int:
        """Keep the newest ``room`` of an earlier attempt; how many of this work are left."""
        left = 0
        for _, folder in _steps(self.storage, attempt):
            key = _committed_key(self.storage, folder)
            if key is not None and key != self._key:
                continue  # another model's or data set's: not ours to delete
            if folder == best_folder or (key is not None and left < room):
                left += 1
            else:
                self._delete(folder)
        if not left:
            self._pruned.add(attempt)
        return left

    def _delete(self, folder: str) -> None:
        # The manifest goes first: a deletion cut short leaves an uncommitted folder, not a damaged one.
        self.storage.delete(f"{folder}/{MANIFEST}")
        self.storage.delete(folder, recursive=True)


def open_checkpoint(storage: Storage, ref: CheckpointRef, *, key: str | None = None) -> LoadedCheckpoint:
    """A checkpoint of the run in ``storage``, or of the run that ``ref.root`` names; files are read when asked for.

    Raises DamagedError when it has no readable manifest, and OtherKeyError when ``key`` is given and the
    checkpoint has another one.
    """
    if ref.root is not None and ref.root != storage.root:
        storage = Storage(ref.root)
    try:
        manifest = Manifest.from_bytes(storage.read(f"{ref.folder}/{MANIFEST}"))
    except FileNotFoundError:
        raise DamagedError(f"{MANIFEST} is missing, so it was never committed") from None
    if key is not None and manifest.key != key:
        raise OtherKeyError(ref.folder)
    return LoadedCheckpoint(ref, manifest, storage, {})


def load_checkpoint(
    storage: Storage,
    ref: CheckpointRef,
    *,
    key: str | None = None,
    reading: Callable[[Manifest], None] = lambda manifest: None,
) -> LoadedCheckpoint:
    """The same with every file read and verified now, after a call of ``reading``.

    DamagedError naming the first file that is not as it should be.

    A whole checkpoint stays in memory, so it is read once. The shards of one that several processes wrote may be
    more than a process can hold: each is read again, and verified again, by whoever needs it.
    """
    opened = open_checkpoint(storage, ref, key=key)
    reading(opened.manifest)
    kept: dict[str, bytes] = {}
    for name in opened.manifest.files:
        data = opened.read(name)
        if opened.manifest.is_whole:
            kept[name] = data
    return replace(opened, kept=kept)


def newest_committed(storage: Storage, key: str) -> CheckpointRef | None:
    """The newest checkpoint of a run with this key. Its manifest alone is read; files are verified by who loads it."""
    found = _first(storage, attempts_of(storage), open_checkpoint, key=key)
    return None if found is None else found.ref


def newest_key(storage: Storage) -> str | None:
    """The key of the newest committed checkpoint of a run, whatever its work; None when none was ever committed."""
    for attempt in attempts_of(storage):
        for _, folder in _steps(storage, attempt):
            key = _committed_key(storage, folder)
            if key is not None:
                return key
    return None


def attempts_of(storage: Storage) -> list[int]:
    """Attempts that have a folder for checkpoints, newest first."""
    numbers = (name.removeprefix("attempt-") for name in storage.names(FOLDER) if name.startswith("attempt-"))
    return sorted((int(number) for number in numbers if number.isdigit()), reverse=True)


def _first(
    storage: Storage,
    attempts: Iterable[int],
    load: Callable[..., LoadedCheckpoint],
    *,
    key: str,
    up_to: CheckpointRef | None = None,
) -> LoadedCheckpoint | None:
    """The first of the attempts' checkpoints with this key, each one's newest first, that can be loaded.

    ``up_to`` is the newest that counts; when it is of another run, so are all, and are referred to as such.
    """
    for attempt in attempts:
        for step, folder in _steps(storage, attempt):
            if up_to is not None and (attempt, step) > (up_to.attempt, up_to.step):
                continue
            ref = CheckpointRef(folder, attempt, step, up_to.root if up_to is not None else None)
            try:
                return load(storage, ref, key=key)
            except DamagedError as error:
                log.warning("Checkpoint %s is passed over: %s; looking for the one before it", folder, error)
            except OtherKeyError:
                log.info("Checkpoint %s belongs to another model, data set or training section", folder)
    return None


def _committed_key(storage: Storage, folder: str) -> str | None:
    """The key of a committed checkpoint; None for what nobody could resume from."""
    try:
        return Manifest.from_bytes(storage.read(f"{folder}/{MANIFEST}")).key
    except (FileNotFoundError, DamagedError):
        return None


def _folder(attempt: int, step: int) -> str:
    """Where a checkpoint lies in its run."""
    return f"{FOLDER}/attempt-{attempt:04d}/step-{step:08d}"


def _steps(storage: Storage, attempt: int) -> Iterator[tuple[int, str]]:
    """Steps and folders of an attempt's checkpoints, newest first, committed or not."""
    folder = f"{FOLDER}/attempt-{attempt:04d}"
    for name in sorted(storage.names(folder), reverse=True):
        prefix, _, number = name.partition("-")
        if prefix == "step" and number.isdigit():
            yield int(number), f"{folder}/{name}"
