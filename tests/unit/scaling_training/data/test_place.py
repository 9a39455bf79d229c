"""Names, links and places as they are found on other people's machines."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from scaling_training.data import Dataset, TestAccess, open_dataset
from scaling_training.data.analysis import analyse
from scaling_training.data.naming import shown
from scaling_training.data.place import Place
from scaling_training.errors import UserError
from tests.unit.scaling_training.data.folders import fill, folder_spec, picture

COUNTS = {"iris": 20, "rose": 20}
CPU = torch.device("cpu")


def total(data: Dataset) -> int:
    return len(data.train) + len(data.validation) + len(data.open_test(TestAccess("report")))


def renamed(root: Path) -> None:
    """A folder, and a picture that cannot be read, whose names are Latin-1."""
    (root / "iris").rename(root / os.fsdecode(b"b\xe9gonia"))
    (root / "rose/000.png").rename(root / os.fsdecode(b"rose/fl\xe9tri\n1.png"))
    (root / os.fsdecode(b"rose/fl\xe9tri\n1.png")).write_bytes(b"")


def test_names_that_are_no_text_are_read_and_shown_by_escapes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, COUNTS)
    renamed(tmp_path)
    data = open_dataset(folder_spec(tmp_path, unreadable="skip", split={"validation": 0.05, "test": 0.05}))
    assert data.class_names == (r"b\xe9gonia", "rose")
    assert data.found.isprintable()
    assert len(data.train.read(np.arange(len(data.train))).values) == 36
    analysis = analyse(data)
    assert json.loads(json.dumps(analysis.to_json(), ensure_ascii=False).encode())
    with caplog.at_level(logging.WARNING):
        for part in (data.train, data.validation, data.open_test(TestAccess("report"))):
            list(data.feed(part, device=CPU, seed=0).stretch(slice(0, len(part)), 40))
    assert r"Skipped rose/fl\xe9tri\n1.png, which cannot be read" in caplog.text
    assert (total(data), caplog.text.encode() != b"") == (40, True)


def test_a_sentence_about_such_a_name_can_be_sent(tmp_path: Path) -> None:
    fill(tmp_path, COUNTS)
    renamed(tmp_path)
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    with pytest.raises(UserError, match=r"the class folder \\xff is empty") as caught:
        open_dataset(folder_spec(tmp_path))
    assert str(caught.value).encode()


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        pytest.param("é ü 漢字 🌹.png", "é ü 漢字 🌹.png", id="text"),
        pytest.param("a\nb\x1b[31m", r"a\nb\x1b[31m", id="control characters"),
        pytest.param(os.fsdecode(b"\xe9\n"), r"\xe9\n", id="Latin-1"),
    ],
)
def test_names_are_shown_in_one_line(name: str, seen: str) -> None:
    assert shown(name) == seen


def to_itself(root: Path) -> None:
    (root / "rose/self").symlink_to(".")


def to_the_data_set(root: Path) -> None:
    (root / "rose/up").symlink_to("..")


def to_above_the_data_set(root: Path) -> None:
    (root / "rose/far").symlink_to(root.parent)


def to_one_another(root: Path) -> None:
    fill(root.parent / "elsewhere", {"rose": 5}, seed=5)
    (root / "rose/there").symlink_to(root.parent / "elsewhere/rose")
    (root.parent / "elsewhere/rose/back").symlink_to(root / "rose")
    (root / "iris/missing").symlink_to(root / "iris/missing")  # to no folder, whatever is asked


@pytest.mark.parametrize(
    ("link", "images"),
    [
        pytest.param(to_itself, 40, id="to itself"),
        pytest.param(to_the_data_set, 40, id="to the data set"),
        pytest.param(to_above_the_data_set, 40, id="to above the data set"),
        pytest.param(to_one_another, 45, id="to one another"),
    ],
)
def test_links_in_circles_are_not_followed(tmp_path: Path, link: Callable[[Path], None], images: int) -> None:
    root = tmp_path / "data"
    fill(root, COUNTS)
    link(root)
    data = open_dataset(folder_spec(root))
    assert total(data) == images
    assert "links to a folder that they lie in (rose/" in data.found


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    fill(tmp_path / "store", {**COUNTS, "tulip": 20})
    (tmp_path / "data/rose").mkdir(parents=True)
    for path in (tmp_path / "store/rose").iterdir():
        (tmp_path / "data/rose" / path.name).symlink_to(path)
    (tmp_path / "data/iris").symlink_to(tmp_path / "store/iris")
    (tmp_path / "data/tulip").symlink_to(tmp_path / "data/../store/tulip")
    (tmp_path / "linked").symlink_to(tmp_path / "data")
    data = open_dataset(folder_spec(tmp_path / "linked"))
    assert (data.class_names, total(data)) == (("iris", "rose", "tulip"), 60)
    assert not data.train.read(np.arange(len(data.train))).unreadable


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def lost(path: Path) -> None:
    path.symlink_to("nowhere.png")


def listening(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's address is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(pipe, "it is no file but a pipe or a device", id="pipe"),
        pytest.param(device, "it is no file but a pipe or a device", id="device"),
        pytest.param(listening, "No such device or address", id="socket"),
        pytest.param(lost, "No such file or directory", id="link to nowhere"),
    ],
)
def test_what_is_no_file_is_unreadable_and_never_waited_for(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    fill(tmp_path / "train", COUNTS)
    fill(tmp_path / "validation", COUNTS, seed=1)
    make(tmp_path / "train/rose/odd.png")
    data = open_dataset(folder_spec(tmp_path))
    assert data.fingerprint
    assert analyse(data).unreadable.files == (("train/rose/odd.png", reason),)


def test_a_place_may_have_blanks_and_lie_in_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "My Pictures (1)/two words", COUNTS)
    data = open_dataset(folder_spec(Path("~/My Pictures (1)/two words")))
    assert total(data) == 40
    assert not data.train.read(np.arange(len(data.train))).unreadable
    assert Place("~/My Pictures (1)").__reduce__()[1] == (f"{tmp_path}/My Pictures (1)",)


def test_long_names_are_read(tmp_path: Path) -> None:
    fill(tmp_path, COUNTS)
    deep = tmp_path / "rose" / "/".join(["d" * 100] * 9)
    deep.mkdir(parents=True)
    picture(9).save(deep / f"{'n' * 240}.png")
    data = open_dataset(folder_spec(tmp_path, split={"validation": 0.05, "test": 0.05}))
    assert total(data) == 41
    assert not data.train.read(np.arange(len(data.train))).unreadable


def archive(path: Path) -> Path:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as file:
        file.writestr("rose/1.png", b"x")
    return path.with_suffix(".zip")


def table(path: Path) -> Path:
    path.write_text("name,label\n")
    return path


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        pytest.param(archive, "is an archive; unpack it and name the folder", id="archive"),
        pytest.param(table, "is a file; name the folder that holds", id="file"),
    ],
)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_place_that_is_no_folder_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], sentence: str, scheme: str
) -> None:
    made = make(tmp_path / "data")
    for name in ("image-folder", "cifar-10"):
        spec = folder_spec(tmp_path).model_copy(update={"uri": f"{scheme}{made}", "name": name})
        with pytest.raises(UserError, match=sentence):
            open_dataset(spec)


def test_classes_that_differ_by_case_alone_are_asked_about(tmp_path: Path) -> None:
    fill(tmp_path, {"Rose": 20, "rose": 20})
    shutil.copytree(tmp_path / "Rose", tmp_path / "iris")
    assert (
        "the classes 'Rose' and 'rose' differ by case or blanks alone: are they one?"
        in analyse(open_dataset(folder_spec(tmp_path))).warnings
    )
