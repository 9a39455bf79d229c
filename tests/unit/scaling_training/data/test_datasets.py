"""CIFAR-10's files, made images, and functions of the user's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaling_api.spec import DatasetSpec
from scaling_training.data import Dataset, TestAccess, cifar10, open_dataset
from scaling_training.data.arrays import ImageArrays
from scaling_training.errors import UserError

CPU = torch.device("cpu")
RECORDS = 40


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10's six files with 40 records each."""
    monkeypatch.setattr(cifar10, "RECORDS", RECORDS)
    for number, name in enumerate(
        ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
    ):
        records = np.random.default_rng(number).integers(0, 256, (RECORDS, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(RECORDS) % 10
        records.tofile(tmp_path / f"{name}.bin")
    return tmp_path


def open_cifar(folder: Path, **fields: Any) -> Dataset:
    return open_dataset(DatasetSpec.model_validate({"name": "cifar-10", "uri": str(folder), **fields}))


def test_cifar_is_read_from_its_own_files(cifar: Path) -> None:
    data = open_cifar(cifar, split={"validation": 0.25})
    test = data.open_test(TestAccess("evaluate"))

    assert (len(data.train), len(data.validation), len(test)) == (150, 50, RECORDS)
    assert np.bincount(data.validation.labels).tolist() == [5] * 10
    assert data.class_names[3] == "cat"
    raw = np.fromfile(cifar / "test_batch.bin", dtype=np.uint8).reshape(RECORDS, 3073)
    picture = test.read(np.array([7])).values[0]
    assert picture.shape == (3, 32, 32)
    # Red, green, blue; row by row.
    assert picture[1, 2, 5] == raw[7, 1 + 1024 + 2 * 32 + 5]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(lambda path: path.unlink(), "has no data_batch_3.bin; unpack", id="missing"),
        pytest.param(
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            f"data_batch_3.bin has {RECORDS * 3073 - 1} bytes instead of {RECORDS * 3073}",
            id="cut off",
        ),
        pytest.param(
            lambda path: path.write_bytes(b"\xff" * RECORDS * 3073), "class is 255; the files are damaged", id="damaged"
        ),
    ],
)
def test_a_wrong_file_is_named(cifar: Path, spoil: Callable[[Path], object], sentence: str) -> None:
    spoil(cifar / "data_batch_3.bin")
    with pytest.raises(UserError, match=sentence):
        open_cifar(cifar)


def test_a_missing_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.uri .*/nowhere does not exist"):
        open_cifar(tmp_path / "nowhere")


def synthetic(**fields: Any) -> Dataset:
    return open_dataset(
        DatasetSpec.model_validate({"name": "synthetic", "samples": 400, "classes": 4, "imageSize": 16, **fields})
    )


def test_made_images_are_a_function_of_their_fields_and_seed() -> None:
    assert synthetic().fingerprint == synthetic().fingerprint
    assert synthetic().fingerprint != synthetic(split={"seed": 1}).fingerprint
    assert synthetic(channels=1).input_shape == (1, 16, 16)
    assert np.bincount(synthetic().train.labels).tolist() == [70] * 4


def test_made_images_can_be_learned_but_not_from_one_pixel() -> None:
    data = synthetic()
    train, validation = (part.read(np.arange(len(part))).values.astype(float) for part in (data.train, data.validation))
    means = np.stack([train[data.train.labels == label].mean(axis=0) for label in range(4)])
    by_mean = ((validation[:, None] - means) ** 2).sum(axis=(2, 3, 4)).argmin(axis=1)
    assert (by_mean == data.validation.labels).mean() > 0.9
    pixel = validation[:, None, :, 3, 3] - means[:, :, 3, 3]
    assert ((pixel**2).sum(axis=2).argmin(axis=1) == data.validation.labels).mean() < 0.95


def test_made_images_that_would_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"dataset.samples 10000000 of 3x16x16 would take more than 4 GiB"):
        synthetic(samples=10_000_000)


class Squares:
    """A map-style data set with its labels in ``targets``, as torchvision's."""

    def __init__(self, count: int, *, broken: bool = False) -> None:
        self.targets = [index % 2 for index in range(count)]
        self._broken = broken

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[np.ndarray[Any, Any], int]:
        if self._broken and index == 1:
            raise OSError("disk error")
        return np.full((1, 8, 8), index % 251, dtype=np.uint8), self.targets[index]


def arrays(count: int = 40, side: int = 8) -> Any:
    return np.arange(count * side * side, dtype=np.uint8).reshape(count, side, side), np.arange(count) % 2


def in_parts() -> Any:
    return {"train": arrays(40), "validation": arrays(10), "test": arrays(6), "classes": ["even", "odd"]}


def map_style(broken: bool = False) -> Any:
    return {"train": Squares(40, broken=broken), "validation": Squares(10), "test": Squares(10)}


def tokens() -> Any:
    return torch.arange(200).reshape(40, 5) % 7, torch.arange(40) % 2


def raising(**arguments: Any) -> Any:
    raise KeyError("side")


def nothing() -> Any:
    return None


def text() -> Any:
    return {"train": "abc"}


def no_train() -> Any:
    return {"training": arrays()}


def wrong_labels() -> Any:
    return np.zeros((5, 8, 8), dtype=np.uint8), np.zeros(4, dtype=np.int64)


def high_labels() -> Any:
    return {**in_parts(), "classes": ["even"]}


def negative_labels() -> Any:
    images, labels = arrays()
    return images, labels * 2 - 1


def labels_without_a_name() -> Any:
    return {**in_parts(), "validation": (arrays()[0], arrays()[1] + 1)}


def other_shapes() -> Any:
    return {"train": arrays(), "validation": arrays(side=9)}


def no_pairs() -> Any:
    return {"train": [1, 2, 3]}


def of(function: Callable[..., Any], **fields: Any) -> Dataset:
    return open_dataset(DatasetSpec.model_validate({"factory": f"{__name__}:{function.__name__}", **fields}))


def test_a_factory_gives_arrays_that_are_divided() -> None:
    data = of(arrays, arguments={"count": 100, "side": 12})
    assert data.input_shape == (1, 12, 12)
    assert (len(data.train), len(data.validation), len(data.open_test(TestAccess("report")))) == (70, 10, 20)
    assert data.class_names == ("0", "1")


def test_a_factory_gives_parts_and_names() -> None:
    data = of(in_parts)
    assert (len(data.train), len(data.validation)) == (40, 10)
    assert data.class_names == ("even", "odd")
    assert data.fingerprint == of(in_parts).fingerprint


def test_a_map_style_data_set_is_read_item_by_item() -> None:
    data = of(map_style, loader={"workers": 1})
    feed = data.feed(data.train, device=CPU, seed=0)
    batch = next(feed.stretch(slice(0, 40), 40))
    assert batch.inputs.shape == (40, 1, 8, 8)
    assert batch.targets.tolist() == [index % 2 for index in range(40)]
    assert data.fingerprint == of(map_style).fingerprint


def test_an_item_that_raises_is_unreadable() -> None:
    data = of(map_style, arguments={"broken": True}, normalization={"source": "given", "mean": [0.0], "std": [1.0]})
    with pytest.raises(UserError, match=r"item 1 cannot be read \(OSError: disk error\)"):
        data.feed(data.train, device=CPU, seed=0).get(0, np.arange(3))


def test_numbers_that_are_no_pixels_are_taken_as_they_are() -> None:
    data = of(tokens)
    assert (data.max_value, data.normalisation, data.input_shape) == (None, None, (5,))
    assert isinstance(data.train, ImageArrays)
    batch = data.feed(data.train, device=CPU, seed=0, training=True).get(0, np.arange(3))
    assert batch.inputs.dtype == torch.int64
    np.testing.assert_array_equal(batch.inputs.numpy(), data.train.images[:3])
    with pytest.raises(UserError, match=r"dataset.augmentation changes images, but"):
        of(tokens, augmentation={"rotation": 5.0})


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        pytest.param(raising, "dataset.factory .*:raising raised KeyError: 'side'", id="raises"),
        pytest.param(nothing, "returned train as NoneType; it must return", id="nothing"),
        pytest.param(text, "returned train as str; it must return", id="text"),
        pytest.param(no_train, "returned a mapping with training; it must return", id="no training part"),
        pytest.param(wrong_labels, r"returned train with inputs uint8\[5, 8, 8\] and targets int64\[4\]", id="lengths"),
        pytest.param(high_labels, "has 1 class", id="too few names"),
        pytest.param(negative_labels, "labels of train run from -1 to 1, .*number the classes from 0", id="negative"),
        pytest.param(labels_without_a_name, "labels of validation run from 1 to 2, but there are 2", id="no name"),
        pytest.param(other_shapes, "samples differ in shape", id="shapes"),
        pytest.param(no_pairs, r"train: item 0 is not \(input, target\)", id="no pairs"),
    ],
)
def test_a_factory_that_returns_something_else_is_told_so(function: Callable[..., Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        of(function)
