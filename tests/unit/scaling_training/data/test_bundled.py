from __future__ import annotations

import numpy as np
import pytest

from scaling_training.data.bundled import load_digits, load_mnist_5k, parse_integers


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits as reference

    ours, theirs = load_digits(), reference()
    np.testing.assert_array_equal(ours.images[:, 0], theirs.images)
    np.testing.assert_array_equal(ours.labels, theirs.target)


def test_mnist_5k_is_five_hundred_real_images_of_each_digit() -> None:
    arrays = load_mnist_5k()

    assert arrays.images.shape == (5000, 1, 28, 28)
    assert np.bincount(arrays.labels).tolist() == [500] * 10
    # MNIST's grey values run up to 255 with a mean of about 33; a wrong parse would miss both.
    assert arrays.images.max() == 255
    assert 31 < arrays.images.mean() < 36


@pytest.mark.parametrize(
    ("text", "table"),
    [
        pytest.param(b"0,12,255\n7,10,3\n", [[0, 12, 255], [7, 10, 3]], id="one to three digits"),
        pytest.param(b"1,2\n3,4", [[1, 2], [3, 4]], id="no newline at the end"),
        pytest.param(b"5\n", [[5]], id="a single number"),
    ],
)
def test_integers_are_parsed(text: bytes, table: list[list[int]]) -> None:
    assert parse_integers(text).tolist() == table


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param(b"1,2.5\n", "something else", id="a fraction"),
        pytest.param(b"1,-2\n", "something else", id="a sign"),
        pytest.param(b"1,,2\n", "empty", id="an empty field"),
        pytest.param(b"1000\n", "more than three digits", id="four digits"),
        pytest.param(b"1,2\n3\n", "differ in length", id="ragged rows"),
    ],
)
def test_anything_else_is_refused(text: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_integers(text)
