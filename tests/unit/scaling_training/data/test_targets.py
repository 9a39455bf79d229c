"""What a user's data set may give to be learned: classes, labels, numbers; and what it is told of anything else."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from scaling_api.spec import DatasetSpec
from scaling_training.data import Dataset, TestAccess, open_dataset
from scaling_training.data.analysis import analyse
from scaling_training.errors import UserError

CPU = torch.device("cpu")
SAMPLES = 40
INPUTS = np.arange(SAMPLES * 3, dtype=np.float32).reshape(SAMPLES, 3)
NUMBERS = np.linspace(-1, 1, SAMPLES)
LABELS = np.stack([np.arange(SAMPLES) % 2, np.arange(SAMPLES) % 3 == 0], axis=1)
RETURNED: dict[str, Any] = {}


def load() -> Any:
    return RETURNED["value"]


class Items:
    """A map-style data set."""

    def __init__(self, targets: Any, drift: float = 0.0) -> None:
        self._targets = targets
        self.drift = drift

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> Any:
        return INPUTS[index], self._targets[index] + self.drift


def opened(value: Any, **fields: Any) -> Dataset:
    RETURNED["value"] = value
    return open_dataset(DatasetSpec.model_validate({"factory": f"{__name__}:load", **fields}))


def all_targets(data: Dataset) -> torch.Tensor:
    splits = (data.train, data.validation, data.open_test(TestAccess("report")))
    feeds = [(data.feed(split, device=CPU, seed=0), len(split)) for split in splits]
    return torch.cat([feed.get(0, np.arange(count)).targets for feed, count in feeds])


@pytest.mark.parametrize("given", [(INPUTS, NUMBERS), Items(NUMBERS)], ids=["arrays", "map style"])
def test_floats_are_numbers_to_predict(given: Any) -> None:
    data = opened(given)
    assert (data.kind, data.outputs, data.class_names) == ("numbers", 1, ())
    assert (len(data.train), len(data.validation)) == (28, 4)
    found = all_targets(data)
    assert found.dtype == torch.float32
    assert sorted(found.tolist()) == pytest.approx(sorted(NUMBERS.tolist()))
    analysis = analyse(data)
    assert (analysis.classes, analysis.label_noise) == ((), None)


def test_several_numbers_stay_in_rows() -> None:
    data = opened((INPUTS, np.stack([NUMBERS, 2 * NUMBERS], axis=1)))
    assert (data.kind, data.outputs) == ("numbers", 2)
    assert all_targets(data).shape == (SAMPLES, 2)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32])
def test_rows_of_0_and_1_are_labels(kind: type) -> None:
    data = opened({"train": (INPUTS, LABELS.astype(kind)), "classes": ["odd", "third"]})
    assert (data.kind, data.outputs, data.class_names) == ("labels", 2, ("odd", "third"))
    found = all_targets(data)
    assert (found.dtype, found.shape) == (torch.float32, (SAMPLES, 2))
    assert found.sum(dim=0).tolist() == LABELS.sum(axis=0).tolist()
    counted = {item.name: item.train + item.validation for item in analyse(data).classes}
    assert counted.keys() == {"odd", "third"}


def test_whole_numbers_are_classes_as_before() -> None:
    data = opened((INPUTS, np.arange(SAMPLES) % 4))
    assert (data.kind, data.outputs, data.class_names) == ("classes", 4, ("0", "1", "2", "3"))


@pytest.mark.parametrize("targets", [NUMBERS, LABELS], ids=["numbers", "labels"])
def test_blank_and_equal_images_without_classes_can_be_looked_at(targets: Any) -> None:
    analysis = analyse(opened((np.zeros((SAMPLES, 8, 8), dtype=np.uint8), targets)))
    assert analysis.contradictions.count == 0
    assert analysis.blank is not None
    assert (analysis.blank.count, analysis.blank.classes) == (28, ())


def test_other_numbers_are_other_data() -> None:
    before = opened((INPUTS, NUMBERS)).fingerprint
    assert opened((INPUTS, NUMBERS)).fingerprint == before
    assert opened((INPUTS, NUMBERS + 1e-3)).fingerprint != before
    assert opened(Items(NUMBERS)).fingerprint != opened(Items(NUMBERS + 1e-3)).fingerprint


def test_a_target_that_changes_is_told() -> None:
    items = Items(NUMBERS)
    data = opened(items)
    items.drift = 0.5
    with pytest.raises(UserError, match=r"item \d+ has the target .* now and had .* before"):
        data.feed(data.train, device=CPU, seed=0).get(0, np.arange(1))


def test_floats_that_look_like_classes_are_asked_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        opened((INPUTS, np.arange(SAMPLES) % 3.0))
    assert "if 0 to 2 are classes, give whole numbers" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        opened((INPUTS, NUMBERS))
    assert caplog.text == ""


CLASSES = np.arange(SAMPLES) % 2
WITH_A_HOLE = np.where(np.arange(SAMPLES) == 7, np.nan, NUMBERS)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        pytest.param((INPUTS, CLASSES.astype(str)), r"train: the targets are <U\d+\[40\]; write whole", id="text"),
        pytest.param((INPUTS, LABELS * 2), r"train: the targets are int64\[40, 2\]; write whole", id="rows of others"),
        pytest.param((INPUTS, CLASSES[:, None]), r"train: the targets are int64\[40, 1\]; write", id="a column"),
        pytest.param((INPUTS, WITH_A_HOLE), "train: the target of sample 7 is nan; leave the sample out", id="nan"),
        pytest.param((INPUTS, CLASSES + 10**9), "largest class number is 1000000001; number the", id="far too high"),
        pytest.param([(INPUTS[0], [1.0]), (INPUTS[1], [1.0, 2.0])], "train: the targets differ in shape", id="ragged"),
        pytest.param({"train": (INPUTS, CLASSES), "classes": 2}, "classes is 2; it must be a list", id="a count"),
        pytest.param({"train": (INPUTS, CLASSES), "classes": "ab"}, "classes is 'ab'; it must be a", id="one text"),
        pytest.param({"train": (INPUTS, CLASSES), "classes": ["a", "a"]}, "classes names a more than", id="twice"),
        pytest.param({"train": (INPUTS, LABELS), "classes": ["a"]}, "1 names, and the targets have 2", id="too few"),
        pytest.param(
            {"train": (INPUTS, NUMBERS), "classes": ["a"]}, "classes goes with whole numbers", id="no classes"
        ),
        pytest.param(
            {"train": (INPUTS, CLASSES), "validation": (INPUTS, NUMBERS)},
            "different kinds: classes of width 1 in train, numbers of width 1 in validation",
            id="two kinds",
        ),
    ],
)
def test_what_are_no_targets_is_told_with_the_field_and_the_part(given: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=f"dataset.factory .*:load.*{sentence}"):
        opened(given)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"sampling": "balanced"}, "dataset.sampling balanced is for classes, and the targets are numbers"),
        ({"classWeights": "balanced"}, "dataset.classWeights balanced is for classes"),
        ({"augmentation": {"mixup": 0.2}}, "dataset.augmentation.mixup is for classes"),
        ({"augmentation": {"cutmix": 0.2}}, "dataset.augmentation.cutmix is for classes"),
    ],
    ids=["sampling", "weights", "mixup", "cutmix"],
)
def test_what_is_for_classes_is_refused_for_numbers(fields: Mapping[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        opened((INPUTS, NUMBERS), **fields)
