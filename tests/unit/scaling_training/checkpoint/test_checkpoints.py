from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scaling_training.checkpoint import CheckpointRef, Checkpoints, DamagedError, load_checkpoint
from scaling_training.checkpoint.catalog import newest_committed, newest_key
from scaling_training.errors import UserError
from scaling_training.formats import ForeignError
from scaling_training.storage import Storage

FILES = {"model.safetensors": b"weights" * 10, "training.pt": b"state"}


def checkpoints(storage: Storage, attempt: int = 1, key: str = "key", keep: int = 10) -> Checkpoints:
    return Checkpoints(storage, attempt=attempt, key=key, keep=keep)


def latest(of: Checkpoints, resume: CheckpointRef | None = None) -> CheckpointRef | None:
    loaded = of.load_latest(resume)
    return loaded.ref if loaded else None


def saved(
    to: Checkpoints, step: int, *, accuracy: float = 0.5, best: CheckpointRef | None = None, is_best: bool = False
) -> CheckpointRef:
    ref = to.begin(step)
    files = {name: to.write(ref, name, data) for name, data in FILES.items()}
    to.commit(ref, files, epoch=step // 10, metrics={"accuracy": accuracy}, best=best, is_best=is_best)
    return ref


def kept_at(attempt: int, step: int) -> CheckpointRef:
    return CheckpointRef(f"checkpoints/attempt-{attempt:04d}/step-{step:08d}", attempt, step)


def steps(storage: Storage, attempt: int = 1) -> list[str]:
    return [name for name in storage.names(f"checkpoints/attempt-{attempt:04d}") if name.startswith("step")]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_the_newest_is_found_with_what_was_saved(storage: Storage) -> None:
    saved(checkpoints(storage), 10)
    ref = saved(checkpoints(storage), 20)
    loaded = checkpoints(storage).load_latest()

    assert ref.folder == "checkpoints/attempt-0001/step-00000020"
    assert loaded is not None
    assert (loaded.ref, loaded.kept, loaded.manifest.epoch) == (ref, FILES, 2)


def test_nothing_saved_is_nothing_found(storage: Storage) -> None:
    assert latest(checkpoints(storage)) is None
    assert latest(checkpoints(storage, attempt=2)) is None


def truncate(storage: Storage, folder: str) -> None:
    storage.write(f"{folder}/model.safetensors", FILES["model.safetensors"][:-1])


def flip(storage: Storage, folder: str) -> None:
    data = bytearray(FILES["training.pt"])
    data[2] ^= 1
    storage.write(f"{folder}/training.pt", bytes(data))


def lose_file(storage: Storage, folder: str) -> None:
    storage.delete(f"{folder}/training.pt")


def lose_manifest(storage: Storage, folder: str) -> None:
    storage.delete(f"{folder}/MANIFEST.json")


def truncate_manifest(storage: Storage, folder: str) -> None:
    storage.write(f"{folder}/MANIFEST.json", storage.read(f"{folder}/MANIFEST.json")[:40])


def foreign_manifest(storage: Storage, folder: str) -> None:
    storage.write(f"{folder}/MANIFEST.json", b'["not", "ours"]')


def later_format(storage: Storage, folder: str) -> None:
    manifest = json.loads(storage.read(f"{folder}/MANIFEST.json"))
    storage.write(f"{folder}/MANIFEST.json", json.dumps(manifest | {"format": 99}).encode())


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (truncate, "model.safetensors has 69 bytes instead of 70"),
        (flip, "training.pt has another content"),
        (lose_file, "training.pt is missing"),
        (lose_manifest, "MANIFEST.json is missing, so it was never committed"),
        (truncate_manifest, "MANIFEST.json is not readable"),
        (foreign_manifest, "MANIFEST.json is not readable"),
    ],
)
def test_a_damaged_one_is_passed_over_with_a_warning_and_the_one_before_is_used(
    storage: Storage, caplog: pytest.LogCaptureFixture, damage: object, complaint: str
) -> None:
    assert callable(damage)
    before = saved(checkpoints(storage), 10)
    newest = saved(checkpoints(storage), 20)
    damage(storage, newest.folder)

    with caplog.at_level(logging.WARNING):
        assert latest(checkpoints(storage)) == before
    assert newest.folder in caplog.text
    assert complaint in caplog.text
    with pytest.raises(DamagedError, match=complaint):
        load_checkpoint(storage, newest)


def test_retention_keeps_the_latest_and_the_best(storage: Storage) -> None:
    kept = checkpoints(storage, keep=2)
    best = saved(kept, 10, is_best=True)
    for step in (20, 30, 40):
        saved(kept, step, best=best)
    assert steps(storage) == ["step-00000010", "step-00000030", "step-00000040"]


def test_a_new_best_frees_the_old_one(storage: Storage) -> None:
    kept = checkpoints(storage, keep=1)
    old = saved(kept, 10, is_best=True)
    saved(kept, 20, best=old)
    saved(kept, 30, best=old, is_best=True)
    assert steps(storage) == ["step-00000030"]


def killed_at(file: str) -> Callable[..., None]:
    """A `Storage.write` that ends the process, as it were, before it writes this file."""
    write = Storage.write

    def killed(self: Storage, name: str, data: bytes) -> None:
        if name.endswith(file):
            raise KeyboardInterrupt
        write(self, name, data)

    return killed


def test_nothing_is_deleted_before_the_next_is_committed(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = checkpoints(storage, keep=1)
    first = saved(kept, 10)
    monkeypatch.setattr(Storage, "write", killed_at("MANIFEST.json"))
    with pytest.raises(KeyboardInterrupt):
        saved(kept, 20)
    assert latest(checkpoints(storage)) == first


def test_a_step_that_is_saved_again_replaces_what_was_there_once_it_is_committed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = saved(checkpoints(storage), 10)
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write", killed_at("MANIFEST.json"))
        with pytest.raises(KeyboardInterrupt):
            saved(checkpoints(storage), 10, accuracy=0.6)
    assert latest(checkpoints(storage)) == first, "killed before the commit, what was there is good"

    for accuracy in (0.6, 0.7):
        again = saved(checkpoints(storage), 10, accuracy=accuracy)
        loaded = checkpoints(storage).load_latest()
        assert loaded is not None
        assert (loaded.ref, loaded.manifest.metrics) == (again, {"accuracy": accuracy})
        assert steps(storage) == [again.folder.rpartition("/")[2]]


def test_a_damaged_one_of_the_same_step_is_replaced(storage: Storage) -> None:
    truncate(storage, saved(checkpoints(storage), 10).folder)
    again = saved(checkpoints(storage), 10)
    assert latest(checkpoints(storage)) == again
    assert len(steps(storage)) == 1


def test_the_best_stays_though_its_step_is_saved_again_without_a_validation(storage: Storage) -> None:
    best = saved(checkpoints(storage), 10, is_best=True)
    again = saved(checkpoints(storage), 10, best=best)
    assert latest(checkpoints(storage)) == again
    assert load_checkpoint(storage, best).manifest.best == best


def test_a_checkpoint_that_cannot_be_deleted_is_said_and_deleted_by_a_later_save(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stays = {saved(checkpoints(storage), 10).folder, saved(checkpoints(storage, attempt=2), 20).folder}
    kept, delete = checkpoints(storage, attempt=2, keep=1), Storage.delete

    def refused(self: Storage, name: str, recursive: bool = False) -> None:
        if name in stays:
            raise OSError(16, "Device or resource busy", name)
        delete(self, name, recursive)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "delete", refused)
        for step in (30, 40):
            saved(kept, step)
    assert latest(checkpoints(storage, attempt=2)) == kept_at(2, 40)
    assert [folder for folder in stays if caplog.text.count(f"{folder} could not be deleted: [Errno 16]") == 1] == [
        *stays
    ]
    assert steps(storage, 1) == ["step-00000010"]

    saved(kept, 50)
    assert (steps(storage, 1), steps(storage, 2)) == ([], ["step-00000050"])


def test_a_save_is_done_though_old_checkpoints_cannot_be_listed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = checkpoints(storage, keep=1)
    ref = kept.begin(10)
    entry = kept.write(ref, "a", b"a")

    def away(self: Storage, folder: str = "") -> list[str]:
        raise ConnectionError("the store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "names", away)
        kept.commit(ref, {"a": entry}, epoch=1, metrics={}, best=None, is_best=False)
    assert latest(checkpoints(storage)) == ref
    assert "could not be looked for: the store does not answer" in caplog.text


def test_the_earlier_attempts_are_pruned_once_there_is_enough_of_ones_own(storage: Storage) -> None:
    old = checkpoints(storage, attempt=1, keep=2)
    best = saved(old, 10, is_best=True)
    for step in (20, 30):
        saved(old, step, best=best)
    new = checkpoints(storage, attempt=2, keep=2)
    assert latest(new) is not None
    assert steps(storage, 1) == ["step-00000010", "step-00000020", "step-00000030"]

    saved(new, 40, best=best)
    assert steps(storage, 1) == ["step-00000010", "step-00000030"], "one of its own, one before it, and the best"
    saved(new, 50, best=best)
    assert steps(storage, 1) == ["step-00000010"], "the best stays"
    saved(new, 60, best=best, is_best=True)
    assert steps(storage, 1) == []
    assert steps(storage, 2) == ["step-00000050", "step-00000060"]


def test_an_old_attempt_that_wakes_up_deletes_nothing_of_a_newer_one(storage: Storage) -> None:
    saved(checkpoints(storage, attempt=2, keep=1), 20)
    saved(checkpoints(storage, attempt=1, keep=1), 30)
    assert steps(storage, 2) == ["step-00000020"]


def test_checkpoints_of_other_work_are_not_pruned(storage: Storage) -> None:
    saved(checkpoints(storage, attempt=1, key="narrow model"), 10)
    saved(checkpoints(storage, attempt=2, key="wide model", keep=1), 20)
    assert steps(storage, 1) == ["step-00000010"]


def test_a_future_that_was_given_up_is_deleted(storage: Storage) -> None:
    ours = checkpoints(storage)
    saved(ours, 10)
    newest = saved(ours, 30)
    truncate(storage, newest.folder)
    saved(ours, 20)
    assert steps(storage) == ["step-00000010", "step-00000020"]


def test_the_base_is_the_most_advanced_of_the_attempts_before(storage: Storage) -> None:
    """As when two attempts trained at the same time, the earlier one faster."""
    first = saved(checkpoints(storage, attempt=1), 10)
    second = saved(checkpoints(storage, attempt=2), 5)
    saved(checkpoints(storage, attempt=4), 40)
    assert latest(checkpoints(storage, attempt=3)) == first
    lose_file(storage, first.folder)
    assert latest(checkpoints(storage, attempt=3)) == second


def test_of_equally_advanced_ones_the_later_attempts_is_the_base(storage: Storage) -> None:
    for attempt in (1, 2):
        saved(checkpoints(storage, attempt=attempt), 10)
    assert latest(checkpoints(storage, attempt=3)) == kept_at(2, 10)


def test_progress_is_epochs_before_steps(storage: Storage) -> None:
    """With larger batches an epoch has fewer steps (training.elastic)."""
    for attempt, step, epoch in ((1, 40, 2), (2, 30, 3)):
        to = checkpoints(storage, attempt=attempt)
        ref = to.begin(step)
        to.commit(ref, {"a": to.write(ref, "a", b"")}, epoch=epoch, metrics={}, best=None, is_best=False)
    assert newest_committed(storage, "key") == kept_at(2, 30)
    assert latest(checkpoints(storage, attempt=3)) == kept_at(2, 30)


def test_what_is_more_advanced_than_an_attempt_is_not_pruned_by_it(storage: Storage) -> None:
    saved(checkpoints(storage, attempt=1), 30)
    new = checkpoints(storage, attempt=2, keep=1)
    saved(new, 20)
    assert steps(storage, 1) == ["step-00000030"]
    saved(new, 40)
    assert steps(storage, 1) == []


# --- Damaged, foreign and absent are three things --------------------------------------------------------------------


FOREIGN = r"step-00000020/MANIFEST.json has format 99, and this version reads format \d+: go on with the version that"


@pytest.mark.parametrize("attempt", [1, 2], ids=["of the same attempt", "of an earlier attempt"])
@pytest.mark.parametrize("before", [True, False], ids=["with a good one before it", "the only one"])
def test_a_checkpoint_of_another_version_is_neither_passed_over_nor_taken_for_none(
    storage: Storage, attempt: int, before: bool
) -> None:
    if before:
        saved(checkpoints(storage), 10)
    later_format(storage, saved(checkpoints(storage), 20).folder)
    with pytest.raises(ForeignError, match=FOREIGN):
        latest(checkpoints(storage, attempt=attempt))
    with pytest.raises(ForeignError, match=FOREIGN):
        newest_committed(storage, "key")
    with pytest.raises(ForeignError, match=FOREIGN):
        newest_key(storage)
    assert not storage.exists("checkpoints/attempt-0002/BASE.json"), "nothing was decided"


@pytest.mark.parametrize("harm", [later_format, truncate_manifest], ids=["another version's", "damaged"])
def test_what_this_version_cannot_read_is_never_deleted(storage: Storage, harm: Callable[..., None]) -> None:
    old = [saved(checkpoints(storage, attempt=attempt), 10 * attempt).folder for attempt in (1, 2)]
    for folder in old:
        harm(storage, folder)
    before = {folder: [storage.read(f"{folder}/{name}") for name in storage.names(folder)] for folder in old}
    for step in (5, 10, 20, 30):
        saved(checkpoints(storage, attempt=2, keep=1), step)
    assert {folder: [storage.read(f"{folder}/{name}") for name in storage.names(folder)] for folder in old} == before
    assert steps(storage, 2) == ["step-00000020", "step-00000030"]


def test_a_manifest_that_is_damaged_is_not_taken_for_none(storage: Storage) -> None:
    ref = saved(checkpoints(storage), 10)
    manifest = storage.read(f"{ref.folder}/MANIFEST.json")
    truncate_manifest(storage, ref.folder)
    for attempt in (1, 2):
        with pytest.raises(
            UserError, match=rf"{ref.folder} of .* is damaged, and so are those before it: put its files"
        ):
            latest(checkpoints(storage, attempt=attempt))
    with pytest.raises(UserError, match="is damaged, and so are those before it"):
        newest_committed(storage, "key")
    storage.write(f"{ref.folder}/MANIFEST.json", manifest)
    assert latest(checkpoints(storage, attempt=2)) == ref


def test_what_a_crash_left_of_a_save_is_neither_damaged_nor_foreign_and_goes(storage: Storage) -> None:
    kept = checkpoints(storage)
    kept.write(kept.begin(10), "a", b"a")
    assert latest(checkpoints(storage, attempt=2)) is None
    saved(kept, 20)
    assert steps(storage) == ["step-00000020"]


def test_the_base_stays_the_same_though_a_frozen_attempt_goes_on_writing(storage: Storage) -> None:
    first = saved(checkpoints(storage, attempt=1), 10)
    assert latest(checkpoints(storage, attempt=2)) == first
    saved(checkpoints(storage, attempt=1), 20)
    assert latest(checkpoints(storage, attempt=2)) == first


def test_what_began_from_nothing_does_so_again_though_a_frozen_attempt_goes_on_writing(storage: Storage) -> None:
    assert latest(checkpoints(storage, attempt=2)) is None
    saved(checkpoints(storage, attempt=1), 20)
    assert latest(checkpoints(storage, attempt=2)) is None


def test_the_attempts_own_newest_is_preferred_to_its_base(storage: Storage) -> None:
    base = saved(checkpoints(storage, attempt=1), 10)
    assert latest(checkpoints(storage, attempt=2)) == base
    own = saved(checkpoints(storage, attempt=2), 12)
    assert latest(checkpoints(storage, attempt=2)) == own


@pytest.mark.parametrize("attempt", [1, 2], ids=["of an earlier attempt", "of the same attempt"])
def test_a_damaged_base_gives_way_to_the_one_before_it(storage: Storage, attempt: int) -> None:
    before = saved(checkpoints(storage, attempt=attempt), 10)
    base = saved(checkpoints(storage, attempt=2), 20)
    assert latest(checkpoints(storage, attempt=3)) == base
    truncate(storage, base.folder)
    assert latest(checkpoints(storage, attempt=3)) == before


def test_a_base_that_cannot_be_had_any_more_is_not_forgotten(storage: Storage) -> None:
    base = saved(checkpoints(storage), 20)
    assert latest(checkpoints(storage, attempt=2)) == base
    truncate(storage, base.folder)
    restarted = checkpoints(storage, attempt=2)
    with pytest.raises(UserError, match=r"step-00000020 of .*, which attempt 2 goes on from, is no longer there"):
        restarted.load_latest()
    own = saved(restarted, 30)
    assert latest(restarted) == own


@pytest.mark.parametrize("attempt", [1, 2], ids=["of the same attempt", "of an earlier attempt"])
@pytest.mark.parametrize("count", [1, 2], ids=["the only one", "all"])
def test_when_all_are_damaged_nothing_begins_anew_and_what_is_put_back_is_used(
    storage: Storage, attempt: int, count: int
) -> None:
    assert latest(checkpoints(storage)) is None
    refs = [saved(checkpoints(storage), 10 * number) for number in range(1, count + 1)]
    for ref in refs:
        lose_file(storage, ref.folder)
    with pytest.raises(UserError, match=rf"{refs[-1].folder} of .*, and so are those before it: put its files back"):
        latest(checkpoints(storage, attempt=attempt))
    for ref in refs:
        storage.write(f"{ref.folder}/training.pt", FILES["training.pt"])
    assert latest(checkpoints(storage, attempt=attempt)) == refs[-1]


def test_damaged_ones_of_other_work_keep_nothing_from_beginning(storage: Storage) -> None:
    lose_file(storage, saved(checkpoints(storage, key="narrow model"), 10).folder)
    assert latest(checkpoints(storage, attempt=2, key="wide model")) is None


def test_a_checkpoint_of_other_work_is_not_resumed_from(storage: Storage) -> None:
    saved(checkpoints(storage, attempt=1, key="narrow model"), 10)
    assert latest(checkpoints(storage, attempt=2, key="wide model")) is None


def test_another_runs_checkpoint_is_read_where_it_lies(tmp_path: Path) -> None:
    earlier, later = Storage(str(tmp_path / "earlier")), Storage(str(tmp_path / "later"))
    ref = saved(checkpoints(earlier), 10)
    resume = CheckpointRef(ref.folder, ref.attempt, ref.step, root=earlier.root)
    found = checkpoints(later).load_latest(resume)

    assert found is not None
    assert (found.ref, found.kept) == (resume, FILES)
    assert latest(checkpoints(later)) == resume


def of_another_run(tmp_path: Path) -> tuple[Storage, list[CheckpointRef]]:
    """A run of two attempts with a checkpoint of each, and references to them for who resumes from it."""
    earlier = Storage(str(tmp_path / "earlier"))
    saved_there = [saved(checkpoints(earlier, attempt=attempt), 10 * attempt) for attempt in (1, 2)]
    return earlier, [replace(ref, root=earlier.root) for ref in saved_there]


def test_a_damaged_one_of_another_run_gives_way_to_the_one_before_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (earlier, [before, newest]), later = of_another_run(tmp_path), Storage(str(tmp_path / "later"))
    flip(earlier, newest.folder)
    assert latest(checkpoints(later), newest) == before
    assert f"{newest.folder} is passed over: training.pt has another content" in caplog.text

    truncate(earlier, before.folder)
    with pytest.raises(UserError, match=r"which attempt 2 goes on from, is no longer there or damaged"):
        latest(checkpoints(later, attempt=2), newest)
    assert not later.exists("checkpoints/attempt-0002/BASE.json"), "nothing was decided"


def test_another_run_that_trains_on_is_gone_on_from_where_it_is_by_then(tmp_path: Path) -> None:
    (earlier, [_, resume]), later = of_another_run(tmp_path), Storage(str(tmp_path / "later"))
    by_then = replace(saved(checkpoints(earlier, attempt=3, keep=1), 30), root=earlier.root)
    assert not earlier.exists(resume.folder)
    assert latest(checkpoints(later), resume) == by_then
    # What is decided stays so.
    saved(checkpoints(earlier, attempt=3), 40)
    assert latest(checkpoints(later), resume) == by_then


def test_another_runs_checkpoint_serves_when_all_of_this_run_are_damaged(storage: Storage, tmp_path: Path) -> None:
    _, [_, resume] = of_another_run(tmp_path)
    own = saved(checkpoints(storage), 50)
    assert latest(checkpoints(storage, attempt=2), resume) == own
    flip(storage, own.folder)
    assert latest(checkpoints(storage, attempt=3), resume) == resume


def test_where_only_manifests_are_read_damage_is_not_noticed(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    before = saved(checkpoints(storage), 10)
    newest = saved(checkpoints(storage, attempt=2), 20)
    saved(checkpoints(storage, attempt=3, key="wide model"), 30)
    flip(storage, newest.folder)
    assert newest_committed(storage, "key") == newest
    truncate_manifest(storage, newest.folder)
    assert newest_committed(storage, "key") == before
    assert f"{newest.folder} is passed over: MANIFEST.json is not readable" in caplog.text
    assert newest_committed(storage, "wide model") == kept_at(3, 30)


def test_a_reference_survives_a_ledger() -> None:
    ref = CheckpointRef("checkpoints/attempt-0001/step-00000010", 1, 10, "s3://bucket/run")
    assert CheckpointRef.from_dict(json.loads(json.dumps(ref.to_dict()))) == ref
    with pytest.raises(ValueError, match="not a checkpoint reference"):
        CheckpointRef.from_dict({"folder": "x"})
