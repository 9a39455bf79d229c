"""The checkpoints that lie in a run folder: where each is, what it is, and which of them is the most advanced.

Layout: ``checkpoints/attempt-0001/step-00000123/`` with the files that `scaling_training.checkpoint.state` tells of
and ``MANIFEST.json``. A step that is saved again gets a folder of its own, ``step-00000123-2``, so that the one that
is there stays good until its successor is committed.

A checkpoint counts only when its manifest is there and every file has the size and hash that it says. One that fails
is passed over with a warning, and the one before it is used. One in another format is never passed over: it may be
better work than what this version can read, so who meets it gets ForeignError.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from scaling_training.checkpoint.manifest import MANIFEST, CheckpointRef, DamagedError, Manifest
from scaling_training.errors import UserError
from scaling_training.storage import Storage

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
_STEP_FOLDER = re.compile(r"^step-(\d+)(?:-(\d+))?$")


class NotCommittedError(DamagedError):
    """A checkpoint has no manifest: its save was cut short, or it is being deleted."""


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


@dataclass(frozen=True, slots=True, order=True)
class StepFolder:
    """A folder of an attempt's: of its step and, when that was saved again, the how manyth it is."""

    step: int
    again: int
    folder: str


def attempt_folder(attempt: int) -> str:
    """Where an attempt's checkpoints lie in its run."""
    return f"{FOLDER}/attempt-{attempt:04d}"


def step_folder(attempt: int, step: int, again: int = 1) -> StepFolder:
    """Where a checkpoint lies in its run."""
    name = f"step-{step:08d}" if again == 1 else f"step-{step:08d}-{again}"
    return StepFolder(step, again, f"{attempt_folder(attempt)}/{name}")


def steps_of(storage: Storage, attempt: int) -> list[StepFolder]:
    """The folders of an attempt's checkpoints, newest first, committed or not."""
    matches = (_STEP_FOLDER.match(name) for name in storage.names(attempt_folder(attempt)))
    found = (
        StepFolder(int(match[1]), int(match[2] or 1), f"{attempt_folder(attempt)}/{match[0]}")
        for match in matches
        if match
    )
    return sorted(found, reverse=True)


def attempts_of(storage: Storage) -> list[int]:
    """Attempts that have a folder for checkpoints, newest first."""
    numbers = (name.removeprefix("attempt-") for name in storage.names(FOLDER) if name.startswith("attempt-"))
    return sorted((int(number) for number in numbers if number.isdigit()), reverse=True)


def open_checkpoint(storage: Storage, ref: CheckpointRef) -> LoadedCheckpoint:
    """A checkpoint of the run in ``storage``, or of the run that ``ref.root`` names; files are read when asked for.

    Raises NotCommittedError when it has no manifest, DamagedError when that is not readable, ForeignError when it is
    in another format.
    """
    if ref.root is not None and ref.root != storage.root:
        storage = Storage(ref.root)
    name = f"{ref.folder}/{MANIFEST}"
    try:
        manifest = Manifest.from_bytes(storage.read(name), where=storage.url(name))
    except FileNotFoundError:
        raise NotCommittedError(f"{MANIFEST} is missing, so it was never committed") from None
    return LoadedCheckpoint(ref, manifest, storage, {})


@contextmanager
def usable(ref: CheckpointRef) -> Iterator[None]:
    """Makes a UserError of what shows, within it, that this checkpoint is damaged or gone."""
    try:
        yield
    except DamagedError as error:
        run = f" of {ref.root}" if ref.root is not None else ""
        raise UserError(
            f"checkpoint {ref.folder}{run} cannot be used: {error}; delete it and run the training again"
        ) from error


Reading = Callable[[Manifest], None]


def load_checkpoint(
    storage: Storage, ref: CheckpointRef, *, reading: Reading = lambda manifest: None
) -> LoadedCheckpoint:
    """The same with every file read and verified now, after a call of ``reading``.

    DamagedError naming the first file that is not as it should be.

    A whole checkpoint stays in memory, so it is read once. The shards of one that several processes wrote may be
    more than a process can hold: each is read again, and verified again, by whoever needs it.
    """
    opened = open_checkpoint(storage, ref)
    reading(opened.manifest)
    return _read(opened)


def _read(opened: LoadedCheckpoint) -> LoadedCheckpoint:
    kept: dict[str, bytes] = {}
    for name in opened.manifest.files:
        data = opened.read(name)
        if opened.manifest.is_whole:
            kept[name] = data
    return replace(opened, kept=kept)


def most_advanced(
    storage: Storage,
    attempts: Iterable[int],
    *,
    key: str,
    up_to_step: float = float("inf"),
    root: str | None = None,
    reading: Reading | None = None,
) -> LoadedCheckpoint | None:
    """The most advanced checkpoint of these attempts with this key that is good; None when they have none.

    Progress alone decides, whichever attempt it is of; of equally advanced ones the later attempt's is taken. It is
    read and verified when ``reading`` is given, which is called first; otherwise its manifest alone is. ``root`` is the
    run's when that is not the reader's own, and references then carry it.

    UserError when there is no good one but some that are damaged: to train from the start would undo work that was
    counted on.
    """
    damaged: list[str] = []
    for found in _committed(storage, attempts, root=root, damaged=damaged):
        if found.manifest.key != key:
            log.info("Checkpoint %s belongs to another model, data set or training section", found.ref.folder)
            continue
        if found.ref.step > up_to_step:
            continue
        if reading is None:
            return found
        reading(found.manifest)
        try:
            return _read(found)
        except DamagedError as error:
            _pass_over(found.ref.folder, error)
            damaged.append(found.ref.folder)
    if damaged:
        raise AllDamagedError(
            f"checkpoint {damaged[0]} of {storage.url()} is damaged, and so are those before it: put its files back, "
            "or train from the start in a new run"
        )
    return None


class AllDamagedError(UserError):
    """Of the checkpoints that could be gone on from, none is good."""


def newest_committed(storage: Storage, key: str) -> CheckpointRef | None:
    """The most advanced checkpoint of a run with this key. Manifests alone are read; files are verified by who loads.

    UserError when it has none whose manifest is readable, but some whose is not.
    """
    found = most_advanced(storage, attempts_of(storage), key=key)
    return None if found is None else found.ref


def newest_key(storage: Storage) -> str | None:
    """The key of the most advanced checkpoint of a run, whatever its work; None when none was ever committed."""
    found = _committed(storage, attempts_of(storage))
    return found[0].manifest.key if found else None


def _committed(
    storage: Storage, attempts: Iterable[int], *, root: str | None = None, damaged: list[str] | None = None
) -> list[LoadedCheckpoint]:
    """The committed checkpoints of some attempts, whatever their work, the most advanced first.

    Folders whose manifest is there and not readable are added to ``damaged``.
    """
    found: list[tuple[tuple[int, int, int, int], LoadedCheckpoint]] = []
    for attempt in attempts:
        for place in steps_of(storage, attempt):
            try:
                opened = open_checkpoint(storage, CheckpointRef(place.folder, attempt, place.step))
            except DamagedError as error:
                _pass_over(place.folder, error)
                if damaged is not None and not isinstance(error, NotCommittedError):
                    damaged.append(place.folder)
                continue
            rank = (opened.manifest.epoch, place.step, attempt, place.again)
            found.append((rank, replace(opened, ref=replace(opened.ref, root=root))))
    return [opened for _, opened in sorted(found, key=lambda entry: entry[0], reverse=True)]


def _pass_over(folder: str, error: DamagedError) -> None:
    log.warning("Checkpoint %s is passed over: %s; looking for the one before it", folder, error)
