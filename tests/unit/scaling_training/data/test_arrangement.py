from __future__ import annotations

import itertools
import os
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest

from scaling_api.spec import DatasetSpec
from scaling_training.data import Dataset, TestAccess, open_dataset
from scaling_training.data.spelling import splits_of
from scaling_training.errors import UserError
from tests.unit.scaling_training.data.folders import fill, folder_spec, picture

COUNTS = {"rose": 10, "iris": 10}


def make(root: Path, *folders: str, counts: dict[str, int] = COUNTS) -> None:
    """The classes with so many pictures each in each of the folders."""
    for seed, folder in enumerate(folders):
        fill(root / folder, counts, seed=seed)


def sizes(data: Dataset) -> dict[str, int]:
    test = data.open_test(TestAccess("report"))
    return {"train": len(data.train), "validation": len(data.validation), "test": len(test)}


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        pytest.param("train valid test", "train validation test", id="as Roboflow exports"),
        pytest.param("Training Testing", "train test", id="as on Kaggle"),
        pytest.param("TRAIN VAL", "train validation", id="in capitals"),
        pytest.param("train dev test", "train validation test", id="dev"),
        pytest.param("tRain Validation", "train validation", id="in any case"),
        pytest.param("train_set test_set", "train test", id="sets"),
        pytest.param("trainset valset testset", "train validation test", id="sets in one word"),
        pytest.param("TrainData TestData", "train test", id="in camel case"),
        pytest.param("images_train images_val", "train validation", id="images"),
        pytest.param("train2017 val2017", "train validation", id="with a year"),
        pytest.param("train-00 test-00", "train test", id="numbered"),
        pytest.param("seg_train seg_test", "train test", id="with a word before"),
        pytest.param("asl_alphabet_train asl_alphabet_test", "train test", id="with two words before"),
    ],
)
def test_splits_are_recognised_in_the_spellings_of_tools(tmp_path: Path, names: str, parts: str) -> None:
    make(tmp_path, *names.split())
    data = open_dataset(folder_spec(tmp_path))
    assert data.class_names == ("iris", "rose")
    given = dict(zip(parts.split(), names.split(), strict=True))
    assert {part for part in given if sizes(data)[part] == 20} == set(given) - ({"train"} if len(given) == 2 else set())
    assert data.train.name_of(0).startswith(f"{given['train']}/iris/")
    assert sum(sizes(data).values()) == 20 * len(given)
    for part, name in given.items():
        assert f"{part if part != 'train' else 'training'} in {name}" in data.found


@pytest.mark.parametrize(
    "names",
    [
        pytest.param("trains buses", id="trains"),
        pytest.param("valid invalid", id="valid beside invalid"),
        pytest.param("dev ops", id="a name"),
        pytest.param("trainer pupil", id="part of a word"),
        pytest.param("train_station bus_station", id="with another word"),
        pytest.param("greatest latest", id="the end of a word"),
    ],
)
def test_classes_that_sound_like_splits_stay_classes(tmp_path: Path, names: str) -> None:
    fill(tmp_path, dict.fromkeys(names.split(), 10))
    assert open_dataset(folder_spec(tmp_path)).class_names == tuple(sorted(names.split()))


def test_a_class_train_can_be_learned_within_splits(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"train": 10, "bus": 10})
    assert open_dataset(folder_spec(tmp_path)).class_names == ("bus", "train")


@pytest.mark.parametrize(
    "wrapped",
    [
        pytest.param("dataset/", id="below one folder"),
        pytest.param("export/flowers/", id="below two folders"),
    ],
)
@pytest.mark.parametrize("inner", [pytest.param("", id="plain"), pytest.param("images", id="below images")])
def test_splits_below_other_folders_are_found(tmp_path: Path, wrapped: str, inner: str) -> None:
    make(tmp_path, *(f"{wrapped}{part}/{inner}" for part in ("train", "valid", "test")))
    data = open_dataset(folder_spec(tmp_path))
    assert (data.class_names, sizes(data)) == (("iris", "rose"), {"train": 20, "validation": 20, "test": 20})


def test_a_split_below_a_folder_of_its_own_name_is_found(tmp_path: Path) -> None:
    make(tmp_path, "seg_train/seg_train", "seg_test/seg_test")
    data = open_dataset(folder_spec(tmp_path))
    assert (data.class_names, sizes(data)["test"]) == (("iris", "rose"), 20)


def test_folders_of_pictures_in_a_class_belong_to_it(tmp_path: Path) -> None:
    for name, inner in (("rose", "2021"), ("rose", "old"), ("iris", "2021"), ("iris", "new")):
        fill(tmp_path / name, {inner: 10})
    data = open_dataset(folder_spec(tmp_path))
    assert (data.class_names, sum(sizes(data).values())) == (("iris", "rose"), 40)


def test_what_was_found_is_one_sentence(tmp_path: Path) -> None:
    make(tmp_path, "flowers/Training", "flowers/Testing")
    (tmp_path / "flowers/Training/rose/raw.heic").write_bytes(b"x")
    (tmp_path / "flowers/notes").mkdir()
    (tmp_path / "flowers/notes/a.txt").write_bytes(b"x")
    assert open_dataset(folder_spec(tmp_path)).found == (
        f"dataset image-folder {tmp_path}: 2 classes (iris, rose); samples: 18 training in flowers/Training, "
        "2 validation divided off training, 20 test in flowers/Testing; left alone: 1 .heic, the folder notes"
    )
    digits = open_dataset(DatasetSpec(name="digits")).found
    assert "10 classes (0, 1, 2, 3, 4, ...); samples: 1,259 training, 179 validation divided off" in digits


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        pytest.param(
            ["train/rose", "train/iris", "tulip"],
            "train lies beside tulip: are these splits or classes",
            id="a class beside train",
        ),
        pytest.param(["train", "bus", "car"], "train lies beside bus, car: .* is a class", id="a class called train"),
        pytest.param(
            ["Train/rose", "Train/iris", "Test/rose", "Test/iris", "extra/rose"],
            "Test, Train lie beside extra",
            id="another split",
        ),
        pytest.param(
            ["data/train/rose", "data/train/iris", "other/rose"], "data holds the splits train", id="splits in a class"
        ),
        pytest.param(["test/rose", "test/iris"], "test lies, but there is no folder train", id="test alone"),
        pytest.param(
            ["valid/rose", "valid/iris", "test/rose", "test/iris"],
            "test, valid lie, but there is no folder train",
            id="no train",
        ),
        pytest.param(
            ["rose", "iris", "test/rose", "test/iris"],
            "test lies beside iris, rose, but there is no folder train",
            id="classes beside test",
        ),
        pytest.param(["rose", "iris", "test"], "test lies beside iris, rose", id="pictures without a class"),
        pytest.param(
            ["fold1/rose", "fold1/iris", "fold2/rose", "fold2/iris"],
            r"fold1 and fold2 hold the same folders \(iris, rose\): if they are splits, call them train",
            id="folds",
        ),
        pytest.param(
            ["Entrenamiento/Rosa", "Entrenamiento/Lirio", "Prueba/rosa", "Prueba/lirio"],
            "Entrenamiento and Prueba hold the same folders",
            id="another language",
        ),
        pytest.param(
            ["rose/train", "rose/test", "iris/train", "iris/test"],
            "iris holds the splits test, train: splits come first",
            id="splits below classes",
        ),
        pytest.param(
            ["train/train/rose", "train/train/iris", "train/test/rose"],
            "in train, test, train lie: a split in a split",
            id="splits below train",
        ),
        pytest.param(
            ["train/rose", "train/iris", "Training/rose"], "both Training and train are training data", id="two trains"
        ),
        pytest.param(
            ["train/rose", "train/iris", "val/rose", "valid/iris"],
            "both val and valid are validation data; keep one",
            id="two validations",
        ),
        pytest.param(["train/Rose", "train/iris", "test/rose"], "train has 'Rose': write both alike", id="case"),
        pytest.param(["train", "test"], "train/0.png lies in no class's folder", id="no classes"),
    ],
)
def test_what_may_be_splits_or_classes_is_refused(tmp_path: Path, folders: Sequence[str], sentence: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        picture(0).save(tmp_path / folder / "0.png")
    with pytest.raises(UserError, match=sentence):
        open_dataset(folder_spec(tmp_path))


@contextmanager
def closed(folder: Path) -> Iterator[None]:
    """The folder may not be listed meanwhile, not by root either."""
    root = os.geteuid() == 0
    folder.chmod(0)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that every user may enter, as pytest's are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.parametrize("below", [pytest.param(".", id="classes"), pytest.param("train", id="splits")])
@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        pytest.param([], "tulip is empty; put images into it, or remove it", id="empty"),
        pytest.param(["a.heic", "b.heic", "c.svg"], "tulip holds no image, but 2 .heic, 1 .svg; convert", id="kinds"),
        pytest.param([".DS_Store", "Thumbs.db", "._a.jpg"], "tulip is empty", id="a system's files alone"),
        pytest.param(["0001"], "tulip holds no image, but 1 without an extension", id="no extension"),
        pytest.param(None, r"tulip cannot be read \(Permission denied\)", id="closed"),
    ],
)
def test_a_class_does_not_vanish(open_to_all: Path, below: str, files: Sequence[str] | None, sentence: str) -> None:
    root = open_to_all / below
    fill(root, COUNTS)
    (root / "tulip").mkdir()
    for name in files or ():
        (root / "tulip" / name).write_bytes(b"x")
    shut = closed(root / "tulip") if files is None else nullcontext()
    with shut, pytest.raises(UserError, match=sentence):
        open_dataset(folder_spec(open_to_all))


def test_a_picture_beside_splits_does_not_vanish(tmp_path: Path) -> None:
    make(tmp_path, "train", "valid")
    picture(0).save(tmp_path / "stray.png")
    with pytest.raises(UserError, match=r"stray.png lies beside train, valid and in no class's folder; move it"):
        open_dataset(folder_spec(tmp_path))


def test_a_split_does_not_vanish(tmp_path: Path) -> None:
    make(tmp_path, "train", "valid")
    for path in sorted((tmp_path / "valid").rglob("*.png")):
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(UserError, match=r"the folder of validation data valid holds no image, but 20 .heic"):
        open_dataset(folder_spec(tmp_path))


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "tif", "gif", "webp", "bmp", "JPG", "avif", "jp2", "tga", "ppm"])
def test_kinds_of_images_are_read(tmp_path: Path, suffix: str) -> None:
    fill(tmp_path, {"rose": 10})
    fill(tmp_path, {"iris": 10}, suffix=suffix)
    data = open_dataset(folder_spec(tmp_path))
    assert data.class_names == ("iris", "rose")
    assert not data.train.read(np.arange(len(data.train))).unreadable


def test_what_belongs_to_a_system_is_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, COUNTS)
    for name in ("__MACOSX/rose", ".ipynb_checkpoints", "lost+found", "rose/@eaDir", "$RECYCLE.BIN"):
        (tmp_path / name).mkdir(parents=True)
        picture(0).save(tmp_path / name / "0.png")
    data = open_dataset(folder_spec(tmp_path))
    assert (data.class_names, sum(sizes(data).values())) == (("iris", "rose"), 20)


def test_accents_are_one_name_however_they_are_composed(tmp_path: Path) -> None:
    for part, name in (("train", "édelweiss"), ("test", unicodedata.normalize("NFD", "édelweiss"))):
        fill(tmp_path / part, {name: 10, "iris": 10})
    data = open_dataset(folder_spec(tmp_path))
    assert (data.class_names, sizes(data)["test"]) == (("iris", "édelweiss"), 20)


def test_no_two_spellings_are_taken_for_another_split() -> None:
    spellings = {"train": ("train", "Training"), "validation": ("val", "valid", "dev"), "test": ("test", "TESTING")}
    for first, second in itertools.permutations(spellings, 2):
        for ours, theirs in itertools.product(spellings[first], spellings[second]):
            assert splits_of([ours, theirs]) == {ours: first, theirs: second}
