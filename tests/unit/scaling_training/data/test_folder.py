from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scaling_api.spec import DatasetSpec
from scaling_training.data import TestAccess, open_dataset
from scaling_training.data import folder as folder_module
from scaling_training.data.decode import decode
from scaling_training.data.files import ImageFiles
from scaling_training.data.samples import Samples
from scaling_training.errors import UserError
from tests.unit.scaling_training.data.folders import fill, folder_spec, picture

COUNTS = {"rose": 10, "iris": 20}


def names(samples: Samples) -> list[str]:
    return [samples.name_of(index) for index in range(len(samples))]


def test_parts_and_classes_are_read_off_the_folders(tmp_path: Path) -> None:
    for part in ("train", "validation", "test"):
        fill(tmp_path / part, COUNTS)
    data = open_dataset(folder_spec(tmp_path))

    assert data.class_names == ("iris", "rose")
    assert data.input_shape == (3, 8, 8)
    for part, samples in (
        ("train", data.train),
        ("validation", data.validation),
        ("test", data.open_test(TestAccess("report"))),
    ):
        assert np.bincount(samples.labels).tolist() == [20, 10]
        assert all(
            name.startswith(f"{part}/{data.class_names[label]}/")
            for name, label in zip(names(samples), samples.labels, strict=True)
        )


def test_one_folder_is_divided_by_class_and_seed(tmp_path: Path) -> None:
    fill(tmp_path, COUNTS)
    data = open_dataset(folder_spec(tmp_path, split={"validation": 0.2, "test": 0.3}))
    parts = [names(part) for part in (data.train, data.validation, data.open_test(TestAccess("report")))]

    assert [np.bincount(part.labels).tolist() for part in (data.train, data.validation)] == [[10, 5], [4, 2]]
    assert len({name for part in parts for name in part}) == sum(map(len, parts)) == 30
    again = open_dataset(folder_spec(tmp_path, split={"validation": 0.2, "test": 0.3, "seed": 1}))
    assert names(again.validation) != parts[1]
    assert again.fingerprint != data.fingerprint


def test_a_missing_test_folder_is_divided_off_training_only(tmp_path: Path) -> None:
    fill(tmp_path / "train", COUNTS)
    fill(tmp_path / "val", {"rose": 3, "iris": 3})
    data = open_dataset(folder_spec(tmp_path))
    test = data.open_test(TestAccess("report"))

    assert (len(data.train), len(data.validation), len(test)) == (24, 6, 6)
    assert all(name.startswith("train/") for name in names(test))


def test_pixels_are_the_centred_square_resized(tmp_path: Path) -> None:
    fill(tmp_path, COUNTS, width=18)
    train = open_dataset(folder_spec(tmp_path)).train
    # As Resize(8) and CenterCrop(8) would.
    image = Image.open(tmp_path / train.name_of(3)).resize((12, 8), Image.Resampling.BILINEAR).crop((2, 0, 10, 8))
    np.testing.assert_array_equal(train.read(np.array([3])).values[0], np.asarray(image).transpose(2, 0, 1))


def test_grayscale_is_one_channel(tmp_path: Path) -> None:
    fill(tmp_path, COUNTS)
    data = open_dataset(folder_spec(tmp_path, channels=1))
    assert data.input_shape == (1, 8, 8)
    assert data.train.read(np.arange(2)).values.shape == (2, 1, 8, 8)


def test_a_large_jpeg_is_decoded_at_a_fraction_and_looks_the_same(tmp_path: Path) -> None:
    picture(1, height=256, width=256).save(tmp_path / "a.jpg", quality=95)
    small = decode((tmp_path / "a.jpg").read_bytes(), size=16, channels=3)
    whole = Image.open(tmp_path / "a.jpg").resize((16, 16), Image.Resampling.BILINEAR)
    difference = np.abs(small.astype(int) - np.asarray(whole).transpose(2, 0, 1))
    assert difference.max() <= 4


def test_a_random_resized_crop_is_cut_from_the_full_picture(tmp_path: Path) -> None:
    # Left half black, right half white: a part far left is all black.
    Image.fromarray(np.repeat(np.array([[0, 255]], dtype=np.uint8), 100, axis=1).repeat(100, axis=0)).save(
        tmp_path / "a.png"
    )
    data = (tmp_path / "a.png").read_bytes()
    left, right = (
        decode(data, size=8, channels=1, crop=(np.array([0.0, 0.5, 0.5, place]), 0.1)) for place in (0.0, 0.999)
    )
    assert (left.max(), right.min()) == (0, 255)


@pytest.mark.parametrize("hashed", [pytest.param(2**26, id="content"), pytest.param(0, id="listing")])
def test_the_fingerprint_changes_with_the_data_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: int
) -> None:
    monkeypatch.setattr(folder_module, "HASHED_BYTES", hashed)
    fill(tmp_path, COUNTS)
    spec = folder_spec(tmp_path)
    before = open_dataset(spec).fingerprint
    assert open_dataset(spec).fingerprint == before

    changed = tmp_path / "rose/003.png"
    content = changed.read_bytes()
    changed.write_bytes(content[:-20] + bytes(20))  # as long as before
    os.utime(changed, ns=(1, 1))
    after = open_dataset(spec).fingerprint
    assert after != before
    (tmp_path / "iris/019.png").unlink()
    assert open_dataset(spec).fingerprint not in (before, after)


@pytest.mark.parametrize(
    ("layout", "as_before"),
    [
        (("",), True),
        (("train", "validation", "test"), True),
        (("train", "val"), True),
        (("Training", "Testing"), False),
        (("train_set", "test_set"), False),
        (("train/images", "val/images"), False),
    ],
)
def test_what_folders_mean_is_part_of_the_fingerprint_where_version_0_1_took_them_for_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: tuple[str, ...], as_before: bool
) -> None:
    """Its checkpoints for splits taken for classes are of other work; all others are gone on with."""
    for part in layout:
        fill(tmp_path / part, COUNTS)
    found = open_dataset(folder_spec(tmp_path)).fingerprint
    monkeypatch.setattr(folder_module, "_meaning", lambda folders: "")
    assert (open_dataset(folder_spec(tmp_path)).fingerprint == found) is as_before


def test_small_folders_keep_their_fingerprint_when_they_are_copied(tmp_path: Path) -> None:
    fill(tmp_path / "a", COUNTS)
    fill(tmp_path / "b", COUNTS)
    assert (
        open_dataset(folder_spec(tmp_path / "a")).fingerprint == open_dataset(folder_spec(tmp_path / "b")).fingerprint
    )


def test_a_store_is_read_as_a_folder_is(tmp_path: Path) -> None:
    import fsspec

    fill(tmp_path, COUNTS)
    store = fsspec.filesystem("memory")
    store.put(str(tmp_path), "/flowers", recursive=True)
    try:
        ours = open_dataset(folder_spec(tmp_path)).train
        theirs = open_dataset(folder_spec(tmp_path, uri="memory://flowers")).train
        assert names(ours) == names(theirs)
        np.testing.assert_array_equal(ours.read(np.arange(5)).values, theirs.read(np.arange(5)).values)
    finally:
        store.rm("/flowers", recursive=True)


def spoil(folder: Path, what: str) -> None:
    match what:
        case "empty":
            folder.mkdir()
        case "no pictures":
            (folder / "rose").mkdir(parents=True)
            (folder / "rose/notes.txt").write_text("none")
        case "one class":
            fill(folder, {"rose": 9})
        case "a file outside":
            fill(folder, COUNTS)
            picture(1).save(folder / "stray.png")
        case "a class only in validation":
            fill(folder / "train", COUNTS)
            fill(folder / "validation", {**COUNTS, "tulip": 2})
        case "a class missing in validation":
            fill(folder / "train", COUNTS)
            fill(folder / "validation", {"rose": 2})
        case "a class too small":
            fill(folder, {"rose": 20, "iris": 2})
        case "two names of one part":
            for part in ("train", "val", "validation"):
                fill(folder / part, {"rose": 1, "iris": 1})


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        pytest.param(
            "nothing", "dataset.uri .* does not exist on this machine, or is empty; correct it", id="no folder"
        ),
        pytest.param("empty", "does not exist on this machine, or is empty", id="an empty folder"),
        pytest.param("no pictures", "holds no image", id="no pictures"),
        pytest.param("one class", r"has 1 class \(rose\); two are needed", id="one class"),
        pytest.param("a file outside", "stray.png lies in no class's folder; move it", id="a file outside"),
        pytest.param(
            "a class only in validation", "validation has a class tulip that train has not", id="unknown class"
        ),
        pytest.param("a class missing in validation", "validation has no sample of class iris", id="missing class"),
        pytest.param(
            "a class too small",
            "class iris has 2 samples, too few to be in training, validation and test; add some",
            id="small class",
        ),
        pytest.param("two names of one part", "both val and validation", id="two names of one part"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused(tmp_path: Path, what: str, sentence: str) -> None:
    spoil(tmp_path / "data", what)
    with pytest.raises(UserError, match=sentence):
        open_dataset(folder_spec(tmp_path / "data"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "the file is empty", id="empty"),
        pytest.param(b"no picture", "it is no picture of a known kind", id="another format"),
        pytest.param(None, "No such file", id="gone"),
        pytest.param(32, "its pixels are of kind F", id="32 bits"),
    ],
)
def test_a_file_that_cannot_be_read_is_replaced_by_the_next_of_its_class(
    tmp_path: Path, content: bytes | int | None, reason: str
) -> None:
    fill(tmp_path, COUNTS)
    train = open_dataset(folder_spec(tmp_path)).train
    assert isinstance(train, ImageFiles)
    last = int(np.flatnonzero(train.labels == 0)[-1])
    path = tmp_path / train.name_of(last)
    if content is None:
        path.unlink()
    elif isinstance(content, int):
        Image.fromarray(np.full((9, 9), 0.5, dtype=np.float32)).save(path, "TIFF")
    else:
        path.write_bytes(content)
    raw = train.read(np.array([last, 3]))

    assert list(raw.unreadable) == [0]
    name, found = raw.unreadable[0]
    assert (name, bool(re.search(re.escape(reason), found))) == (train.name_of(last), True), found
    # The last of its class is followed by the first.
    np.testing.assert_array_equal(raw.values[0], train.read(np.array([0])).values[0])


def test_a_class_without_a_readable_file_is_named(tmp_path: Path) -> None:
    fill(tmp_path, COUNTS)
    for path in (tmp_path / "rose").iterdir():
        path.write_bytes(b"")
    train = open_dataset(folder_spec(tmp_path)).train
    with pytest.raises(UserError, match=r"none of the 7 samples .* of rose/.*png can be read \(that one: the file is"):
        train.read(np.flatnonzero(train.labels == 1)[:1])


def test_a_sentence_about_a_place_shows_no_secret() -> None:
    with pytest.raises(UserError, match=r"dataset.uri memory://\*\*\*@nowhere/a does not exist"):
        open_dataset(DatasetSpec.model_validate({"name": "image-folder", "uri": "memory://token@nowhere/a"}))
