"""Whatever happens to a checkpoint's files is noticed before anything of it is used, and the one before it serves."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from scaling_training.checkpoint import Checkpoints, DamagedError, LoadedCheckpoint, open_checkpoint
from scaling_training.checkpoint.catalog import FOLDER
from scaling_training.checkpoint.manifest import MANIFEST, CheckpointRef, FileEntry, Manifest
from scaling_training.errors import UserError
from scaling_training.storage import Storage
from tests.unit.scaling_training.train.looped import STEPS_PER_EPOCH, a_run, run
from tests.unit.scaling_training.worlds import in_world

BEFORE, NEWEST = STEPS_PER_EPOCH - 1, STEPS_PER_EPOCH
MESHES = {"whole": {"data": 1}, "sharded": {"fsdp": 2}}


@pytest.fixture(scope="module", params=MESHES)
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with two checkpoints. Whoever damages a file mends it."""
    folder, mesh = tmp_path_factory.mktemp("run"), MESHES[request.param]
    spec = a_run(
        "small-cnn",
        bits=32,
        epochs=1,
        optimizer={"name": "adam"},
        ema={"decay": 0.9},
        checkpoint={"everySteps": 1, "keep": 2},
        parallelism=mesh,
    )
    in_world(2 if request.param == "sharded" else 1, run, spec, str(folder))
    return folder


def newest(root: Path) -> Path:
    return root / f"checkpoints/attempt-0001/step-{NEWEST:08d}"


def found(root: Path) -> LoadedCheckpoint | None:
    """What a new attempt would start from."""
    key = json.loads((root / f"checkpoints/attempt-0001/step-{BEFORE:08d}" / MANIFEST).read_text())["key"]
    return Checkpoints(Storage(str(root)), attempt=1, key=key).load_latest()


def test_undamaged_the_newest_is_used(root: Path) -> None:
    loaded = found(root)
    assert loaded is not None
    assert loaded.ref.step == NEWEST


def _cut(content: bytes, place: float, bit: int) -> bytes:
    return content[: int(place * len(content))]


def _flipped(content: bytes, place: float, bit: int) -> bytes:
    changed = bytearray(content)
    changed[int(place * len(content))] ^= 1 << bit
    return bytes(changed)


def _longer(content: bytes, place: float, bit: int) -> bytes:
    return content + bytes([bit])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    number=some.integers(0, 100),
    damage=some.sampled_from((_cut, _flipped, _longer)),
    place=some.floats(0, 1, exclude_max=True),
    bit=some.integers(0, 7),
)
def test_any_file_cut_or_changed_anywhere(
    root: Path,
    caplog: pytest.LogCaptureFixture,
    number: int,
    damage: Callable[[bytes, float, int], bytes],
    place: float,
    bit: int,
) -> None:
    files = sorted(newest(root).iterdir())
    file = files[number % len(files)]
    content = file.read_bytes()
    caplog.clear()
    file.write_bytes(damage(content, place, bit))
    try:
        with caplog.at_level(logging.WARNING):
            loaded = found(root)
    finally:
        file.write_bytes(content)
    assert loaded is not None
    assert loaded.ref.step == BEFORE
    assert f"step-{NEWEST:08d} is passed over: {file.name}" in caplog.text


def test_any_file_that_is_missing(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for file in sorted(newest(root).iterdir()):
        content = file.read_bytes()
        file.unlink()
        try:
            loaded = found(root)
        finally:
            file.write_bytes(content)
        assert loaded is not None
        assert loaded.ref.step == BEFORE
        assert f"{file.name} is missing" in caplog.text


# --- A manifest that was made to mislead -----------------------------------------------------------------------------


def forged(root: Path, **changes: Any) -> Path:
    """The newest checkpoint's manifest with other fields, and the right hash; returns the file, to be mended."""
    file = newest(root) / MANIFEST
    file.write_bytes(replace(Manifest.from_bytes(file.read_bytes()), **changes).to_bytes())
    return file


@pytest.mark.parametrize("name", ["../../../secret", "/etc/hostname", "folder/secret", "..", "."])
def test_a_manifest_that_names_files_elsewhere(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    content = (newest(root) / MANIFEST).read_bytes()
    asked: list[str] = []
    read = Storage.read

    def noting(self: Storage, path: str) -> bytes:
        asked.append(path)
        return read(self, path)

    monkeypatch.setattr(Storage, "read", noting)
    (root / "secret").write_bytes(b"secret")
    file = forged(root, files={name: FileEntry.of(b"secret")})
    try:
        loaded = found(root)
    finally:
        file.write_bytes(content)
    assert loaded is not None
    assert loaded.ref.step == BEFORE
    assert f"{MANIFEST} names {name!r}, which is no file of its folder" in caplog.text
    assert not [path for path in asked if path.endswith(name)]


def test_a_manifest_whose_best_checkpoint_lies_elsewhere(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = (newest(root) / MANIFEST).read_bytes()
    file = forged(root, best=CheckpointRef("../other", 1, 1))
    try:
        loaded = found(root)
    finally:
        file.write_bytes(content)
    assert loaded is not None
    assert loaded.ref.step == BEFORE
    assert "'../other' leaves the run folder" in caplog.text


def test_what_a_manifest_does_not_list_is_not_even_read(root: Path) -> None:
    storage = Storage(str(root))
    opened = open_checkpoint(storage, CheckpointRef(f"checkpoints/attempt-0001/step-{NEWEST:08d}", 1, NEWEST))
    for name in ("model-9999.safetensors", "../../BASE.json", "/etc/hostname"):
        with pytest.raises(DamagedError, match=f"does not list {name}"):
            opened.read(name)


# --- Beside the checkpoints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b'{"base"', b"[]", b'{"base": {"folder": "../x", "attempt": 1, "step": 2}}'])
def test_a_record_of_the_base_that_cannot_be_read_is_the_users_to_mend(tmp_path: Path, content: bytes) -> None:
    storage = Storage(str(tmp_path))
    storage.write("checkpoints/attempt-0002/BASE.json", content)
    with pytest.raises(UserError, match=r"BASE\.json, which says what attempt 2 started from, is not readable"):
        Checkpoints(storage, attempt=2, key="key").load_latest()


def test_what_a_cut_short_save_left_takes_no_good_ones_place(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    kept = Checkpoints(storage, attempt=1, key="key", keep=2)
    for step in (1, 3):
        ref = kept.begin(step)
        kept.commit(ref, {"a": kept.write(ref, "a", b"a")}, epoch=0, metrics={}, best=None, is_best=False)
    kept.write(kept.begin(2), "a", b"a")
    ref = kept.begin(4)
    kept.commit(ref, {"a": kept.write(ref, "a", b"a")}, epoch=0, metrics={}, best=None, is_best=False)
    assert [name for name in storage.names(f"{FOLDER}/attempt-0001") if name.startswith("step")] == [
        "step-00000003",
        "step-00000004",
    ]
    assert Manifest.from_bytes(storage.read(f"{ref.folder}/{MANIFEST}")).step == 4
