"""What an attempt does with the checkpoints of its run: going on from one, saving another, deleting old ones.

An attempt writes to its own folder alone, so a frozen process of an earlier attempt that wakes up damages nothing. What
an attempt starts from, its base, is looked for once and recorded in the attempt's folder by an exclusive create: so the
base stays the same, however often its workers restart, and whatever an earlier attempt writes meanwhile. Within the
attempt the newest committed checkpoint is preferred to the base.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from enum import Enum, auto

from scaling_training.checkpoint.catalog import (
    AllDamagedError,
    LoadedCheckpoint,
    NotCommittedError,
    Reading,
    StepFolder,
    attempt_folder,
    attempts_of,
    most_advanced,
    open_checkpoint,
    step_folder,
    steps_of,
)
from scaling_training.checkpoint.manifest import MANIFEST, CheckpointRef, DamagedError, FileEntry, Manifest
from scaling_training.errors import UserError
from scaling_training.formats import ForeignError, check_format
from scaling_training.storage import Storage

log = logging.getLogger(__name__)

BASE = "BASE.json"
# Of BASE.json; the first releases wrote none.
BASE_FORMAT = 1


class _Kind(Enum):
    """What a folder is to who may delete it."""

    OURS = auto()  # committed, of this work
    CUT_SHORT = auto()  # its save, or its deletion: nobody can use it
    NOT_OURS = auto()  # of other work, or not readable: what is damaged may be mended, what is foreign may be good


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
        # Earlier attempts that have nothing left to delete.
        self._pruned: set[int] = set()
        self._undeleted: set[str] = set()  # folders that somebody was warned of

    def load_latest(
        self, resume: CheckpointRef | None = None, *, reading: Reading = lambda manifest: None
    ) -> LoadedCheckpoint | None:
        """What this attempt goes on from, every file read and verified; None when it begins from nothing.

        That is its own newest good checkpoint, else its base, or the one before that when it is damaged. The base is
        looked for at the first call and stays the same ever after: the most advanced good one of the attempts below
        this one, else that of another run, of which ``resume`` was it when it was looked for: while that run trains on,
        it deletes that one in favour of newer ones. Of a whole checkpoint the content is kept. ``reading`` is called
        with the manifest of each before its files are read.

        UserError when there is neither the base nor one before it any more, or when all that this run has committed are
        damaged and there is no ``resume``: to train from the start would undo work that was counted on, and retention
        would delete what may be mended. ForeignError when a checkpoint is in another format.
        """
        all_damaged: list[AllDamagedError] = []

        def good(attempts: Iterable[int], up_to_step: float = float("inf")) -> LoadedCheckpoint | None:
            try:
                return most_advanced(self.storage, attempts, key=self._key, up_to_step=up_to_step, reading=reading)
            except AllDamagedError as error:
                all_damaged.append(error)
                return None

        own = good([self.attempt])
        if own is not None:
            return own
        earlier = [other for other in attempts_of(self.storage) if other < self.attempt]
        name = f"{attempt_folder(self.attempt)}/{BASE}"
        if not self.storage.exists(name):
            found = good(earlier)
            if found is None and resume is not None:
                found = self._of_another_run(resume, reading)
            if found is None and all_damaged:
                raise all_damaged[0]
            if self.storage.create(name, _base_file(found)):
                return found
        base = self._recorded_base(name)
        if base is not None:
            if base.root is not None:
                return self._of_another_run(base, reading, up_to_step=base.step)
            found = good(earlier, base.step)
            if found is None:
                raise self._lost(self.storage, base)
            return found
        if all_damaged:
            raise all_damaged[0]
        return None

    def _recorded_base(self, name: str) -> CheckpointRef | None:
        where = self.storage.url(name)
        try:
            recorded = json.loads(self.storage.read(name))
            check_format(recorded.get("format", BASE_FORMAT), BASE_FORMAT, where)
            return CheckpointRef.from_dict(recorded["base"]) if recorded["base"] else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{where}, which says what attempt {self.attempt} started from, is not readable "
                f"({error}); delete it to have that looked for again"
            ) from error

    def _of_another_run(
        self, ref: CheckpointRef, reading: Reading, up_to_step: float = float("inf")
    ) -> LoadedCheckpoint:
        """The most advanced good one of the run that ``ref`` is of; that run may go on and delete it."""
        assert ref.root is not None, "of another run"
        storage = Storage(ref.root)
        try:
            found = most_advanced(
                storage, attempts_of(storage), key=self._key, up_to_step=up_to_step, root=ref.root, reading=reading
            )
        except AllDamagedError:
            found = None
        if found is None:
            raise self._lost(storage, ref)
        return found

    def _lost(self, storage: Storage, ref: CheckpointRef) -> UserError:
        return UserError(
            f"checkpoint {ref.folder} of {storage.url()}, which attempt {self.attempt} goes on from, is no longer "
            "there or damaged, and so are those before it: put its files back, or train from the start in a new run"
        )

    def begin(self, step: int) -> CheckpointRef:
        """Where the checkpoint of this step is to be written, without the files of a save that was cut short.

        When the step was saved before, that one stays as it is: it is good until this one is committed.
        """
        again = [
            place.again
            for place in steps_of(self.storage, self.attempt)
            if place.step == step and self._kind(place) is not _Kind.CUT_SHORT
        ]
        place = step_folder(self.attempt, step, max(again, default=0) + 1)
        self._delete(place.folder)
        return CheckpointRef(place.folder, self.attempt, step)

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
        """Write the manifest, then delete what retention no longer keeps; what cannot be deleted is tried again then.

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
        try:
            self._retain(ref, manifest.best)
        except Exception as error:  # whatever a store's library raises: the checkpoint is there
            log.warning("Old checkpoints could not be looked for: %s; that is tried again at the next save", error)

    def _retain(self, newest: CheckpointRef, best: CheckpointRef | None) -> None:
        """Keep the newest `keep`, this attempt's before the earlier ones', and the best.

        Earlier attempts' are touched only here, when this attempt has one of its own and its base is no longer
        what a restart begins with; folders of later attempts never. Nor is what this version cannot read.
        """
        kept = 0
        best_folder = best.folder if best is not None and best.root is None else None
        for place in steps_of(self.storage, self.attempt):
            kind = _Kind.OURS if place.folder == newest.folder else self._kind(place)
            if kind is _Kind.NOT_OURS:
                continue
            # One that is further is of a future that was given up, for training went on from before it.
            serves = place.folder == newest.folder or (place.step < newest.step and kept < self._keep)
            if kind is _Kind.OURS and (serves or place.folder == best_folder):
                kept += 1
            else:
                self._delete(place.folder)
        for attempt in attempts_of(self.storage):
            if attempt < self.attempt and attempt not in self._pruned:
                kept += self._retain_earlier(attempt, newest, room=self._keep - kept, best_folder=best_folder)

    def _retain_earlier(self, attempt: int, newest: CheckpointRef, *, room: int, best_folder: str | None) -> int:
        """Keep the newest ``room`` of an earlier attempt, and what is further than ``newest``; how many are left."""
        left, all_deleted = 0, True
        for place in steps_of(self.storage, attempt):
            kind = self._kind(place)
            if kind is _Kind.NOT_OURS:
                continue
            if kind is _Kind.OURS and (left < room or place.step > newest.step or place.folder == best_folder):
                left += 1
            else:
                all_deleted = self._delete(place.folder) and all_deleted
        if not left and all_deleted:
            self._pruned.add(attempt)
        return left

    def _kind(self, place: StepFolder) -> _Kind:
        try:
            manifest = open_checkpoint(self.storage, CheckpointRef(place.folder, self.attempt, place.step)).manifest
        except NotCommittedError:
            return _Kind.CUT_SHORT
        except (DamagedError, ForeignError):
            return _Kind.NOT_OURS
        return _Kind.OURS if manifest.key == self._key else _Kind.NOT_OURS

    def _delete(self, folder: str) -> bool:
        """Whether it is gone; if not, the next save tries again, and need not fail meanwhile."""
        try:
            # The manifest goes first: a deletion cut short leaves an uncommitted folder, not a damaged one.
            self.storage.delete(f"{folder}/{MANIFEST}")
            self.storage.delete(folder, recursive=True)
        except Exception as error:  # whatever a store's library raises
            if folder not in self._undeleted:
                log.warning("Checkpoint %s could not be deleted: %s; that is tried again at each save", folder, error)
            self._undeleted.add(folder)
            return False
        self._undeleted.discard(folder)
        return True


def _base_file(base: LoadedCheckpoint | None) -> bytes:
    return json.dumps({"format": BASE_FORMAT, "base": base and base.ref.to_dict()}).encode()
