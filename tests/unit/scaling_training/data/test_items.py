"""Map-style data sets as people write them: with random transforms, and with what they did not mean to be in them."""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scaling_api.spec import DatasetSpec
from scaling_training.data import Dataset, open_dataset
from scaling_training.data.items import Items
from scaling_training.errors import UserError

PROGRAM = """
import json, sys
from scaling_api.spec import DatasetSpec
from scaling_training.data import open_dataset
data = open_dataset(DatasetSpec.model_validate({"factory": sys.argv[1]}))
print(json.dumps([data.fingerprint, data.train.labels.tolist()]))
"""


class Transformed:
    """Images that ``transform`` changes anew each time."""

    def __init__(self, transform: Callable[[Any], Any], count: int = 40, start: int = 0) -> None:
        self.targets = [index % 2 for index in range(count)]
        self.transform = transform
        self.start = start

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = np.full((3, 8, 8), (self.start + index) % 251, dtype=np.uint8)
        return self.transform(image), self.targets[index]


def flipped(image: Any) -> Any:
    draws = [random.random(), np.random.random(), torch.rand(()).item()]
    return image + np.array(draws, dtype=np.float32).reshape(3, 1, 1)


def of_torch() -> Any:
    return Transformed(flipped)


def of_torch_with_other_data() -> Any:
    return Transformed(flipped, start=1)


def divided_at_random() -> Any:
    order = torch.randperm(40).tolist() + np.random.permutation(40).tolist()
    values = np.arange(80, dtype=np.float32).reshape(80, 1)[order]
    labels = np.arange(80)[order] % 2
    return {"train": (values[:40], labels[:40]), "validation": (values[40:], labels[40:])}


generator = np.random.default_rng()


def of_its_own() -> Any:
    return Transformed(lambda image: image + generator.random(dtype=np.float32))


def of(function: Callable[..., Any], **fields: Any) -> Dataset:
    return open_dataset(DatasetSpec.model_validate({"factory": f"{__name__}:{function.__name__}", **fields}))


@pytest.mark.parametrize("function", [of_torch, divided_at_random])
def test_random_draws_leave_the_fingerprint_as_it_is(function: Callable[..., Any]) -> None:
    before = of(function)
    flipped(np.zeros((3, 1, 1)))
    after = of(function)
    assert after.fingerprint == before.fingerprint
    # Another process, in which nothing has drawn before, sees the same data as well.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"{__name__}:{function.__name__}"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [before.fingerprint, before.train.labels.tolist()]


def test_a_random_transform_does_not_hide_that_the_data_changed() -> None:
    assert of(of_torch).fingerprint != of(of_torch_with_other_data).fingerprint


def test_nobody_elses_draws_are_changed() -> None:
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    expected = (torch.rand(1).item(), random.random(), np.random.random())
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    assert of(of_torch).fingerprint
    assert (torch.rand(1).item(), random.random(), np.random.random()) == expected


def test_content_that_differs_at_each_reading_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert of(of_its_own).fingerprint == of(of_its_own).fingerprint
    assert "items of train are others each time that they are read, so the fingerprint leaves" in caplog.text


class Versioned(Transformed):
    def __init__(self, version: Any) -> None:
        super().__init__(lambda image: image)
        self.fingerprint = version


def versioned(version: Any) -> Any:
    return Versioned((lambda: "1") if version == "method" else [version] if version == "list" else version)


def test_a_data_set_says_itself_whether_it_has_changed() -> None:
    first, again, other, method = (
        of(versioned, arguments={"version": version}) for version in ("1", "1", "2", "method")
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert method.fingerprint == of(versioned, arguments={"version": "method"}).fingerprint
    with pytest.raises(UserError, match="fingerprint is a list; let it be a text or a number"):
        assert of(versioned, arguments={"version": "list"}).fingerprint


def spoilt(how: str) -> Any:
    def change(image: Any) -> Any:
        if image[0, 0, 0] != 7:
            return image.astype(np.float32)
        match how:
            case "NaN":
                return np.full(image.shape, np.nan, dtype=np.float32)
            case "infinite":
                return np.full(image.shape, 1e300)
            case "pixels":
                return image
        return image[0].astype(np.float32)

    return Transformed(change)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        pytest.param("NaN", "it holds NaN or infinite values", id="NaN"),
        pytest.param("infinite", "it holds NaN or infinite values", id="more than 32 bits hold"),
        pytest.param("pixels", "its values are uint8, the first item's were taken as float32", id="pixels"),
        pytest.param("shape", r"its shape is \(8, 8\), the first item's is \(3, 8, 8\)", id="shape"),
    ],
)
def test_an_item_that_cannot_be_trained_on_is_named(how: str, reason: str) -> None:
    data = of(spoilt, arguments={"how": how})
    place = data.train
    assert isinstance(place, Items)
    feed = data.feed(place, device=torch.device("cpu"), seed=0)
    with pytest.raises(UserError, match=rf"item 7 cannot be read \({reason}\)"):
        feed.get(0, np.arange(len(place)))
    skipping = of(spoilt, arguments={"how": how}, unreadable="skip")
    batch = skipping.feed(skipping.train, device=torch.device("cpu"), seed=0).get(0, np.arange(len(place)))
    assert torch.isfinite(batch.inputs).all()


def not_finite() -> Any:
    values = np.ones((40, 3), dtype=np.float32)
    values[17, 1] = np.nan
    return values, np.arange(40) % 2


def too_large() -> Any:
    return np.full((40, 3), 1e300), np.arange(40) % 2


def words() -> Any:
    return np.array([["a", "b"]] * 40), np.arange(40) % 2


def with_a_gradient() -> Any:
    return torch.ones(40, 3, requires_grad=True), torch.arange(40) % 2


def lists() -> Any:
    return [[float(number), 1.0] for number in range(40)], [number % 2 for number in range(40)]


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        pytest.param(not_finite, "train: the inputs of 1 of 40 samples hold NaN .* first those of sample 17", id="NaN"),
        pytest.param(too_large, "train: the inputs of 40 of 40 samples hold NaN or infinite", id="too large"),
        pytest.param(words, r"returned train with inputs <U1\[40, 2\]", id="words"),
        pytest.param(with_a_gradient, "train raised RuntimeError: .*requires grad", id="a tensor with a gradient"),
    ],
)
def test_inputs_that_cannot_be_trained_on_are_refused(function: Callable[..., Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        of(function)


def test_lists_are_taken_as_arrays_are() -> None:
    data = of(lists)
    assert (data.input_shape, data.class_names) == ((2,), ("0", "1"))


class Opened:
    """Files as ``Image.open`` gives them, which most data sets return when they have no transform."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        with Image.open(self.files[index]) as image:
            image.load()
        return image, index % 2


def opened(folder: str) -> Any:
    return Opened(sorted(Path(folder).iterdir()))


def test_pictures_of_pil_are_seen_as_those_in_files(tmp_path: Path) -> None:
    shape = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    shape.paste((0, 0, 0, 255), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3
    for number in range(40):
        shape.save(tmp_path / f"{number:02d}.png", exif=exif)
    train = of(opened, arguments={"folder": str(tmp_path)}).train
    found = train.read(np.arange(1)).values[0]
    assert (found.shape, found[:, 0].max(), found[:, 0].min(), found[:, -1].max()) == ((3, 8, 8), 255, 255, 0)
