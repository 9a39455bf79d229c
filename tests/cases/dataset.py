"""Cases of the section dataset."""

from __future__ import annotations

from typing import Any

from tests.cases.case import Case, Change, both, put

_DATASET = "spec.dataset"


def dataset(**fields: Any) -> Change:
    return put(_DATASET, fields)


def folder(**fields: Any) -> Change:
    return dataset(name="image-folder", uri="/data/flowers", **fields)


RULES = (
    Case(
        "data set without name and factory", dataset(), _DATASET, "exactly one of name (data that is known here)", True
    ),
    Case(
        "data set with name and factory",
        dataset(name="digits", factory="flowers.data:load"),
        _DATASET,
        "exactly one of name (data that is known here) and factory",
        True,
    ),
    Case(
        "arguments without a factory",
        dataset(name="digits", arguments={"side": 8}),
        f"{_DATASET}.arguments",
        "arguments are those of a factory",
        True,
    ),
    Case(
        "factory as a path",
        dataset(factory="flowers/data.py"),
        f"{_DATASET}.factory",
        "write package.module:function",
        True,
    ),
    Case("folder without a uri", dataset(name="image-folder"), f"{_DATASET}.uri", "uri is missing: say where", True),
    Case(
        "uri of bundled data",
        dataset(name="digits", uri="/data"),
        f"{_DATASET}.uri",
        "uri belongs to data set image-folder and cifar-10",
        True,
    ),
    Case(
        "uri of data with a password",
        dataset(name="cifar-10", uri="s3://me:secret@bucket/a"),
        f"{_DATASET}.uri",
        "without blanks and passwords",
        True,
    ),
    Case(
        "uri that ends with a blank",
        dataset(name="cifar-10", uri="/data/cifar "),
        f"{_DATASET}.uri",
        "is not a place of data",
        True,
    ),
    Case(
        "image size of CIFAR-10",
        dataset(name="cifar-10", uri="/c", imageSize=64),
        f"{_DATASET}.imageSize",
        "imageSize belongs to data set image-folder and synthetic",
        True,
    ),
    Case(
        "channels of bundled data",
        dataset(name="mnist-5k", channels=3),
        f"{_DATASET}.channels",
        "channels belongs to",
        True,
    ),
    Case(
        "samples of a folder", folder(samples=500), f"{_DATASET}.samples", "samples belongs to data set synthetic", True
    ),
    Case(
        "classes of a folder", folder(classes=5), f"{_DATASET}.classes", "classes belongs to data set synthetic", True
    ),
    Case(
        "split of bundled data",
        dataset(name="digits", split={"seed": 1}),
        f"{_DATASET}.split",
        "the split of digits and mnist-5k is fixed",
        True,
    ),
    Case(
        "split that leaves nothing",
        folder(split={"validation": 0.5, "test": 0.5}),
        f"{_DATASET}.split.test",
        "validation 0.5 and test 0.5 leave too little to train on",
        True,
    ),
    Case(
        "crop of both kinds",
        put(f"{_DATASET}.augmentation", {"crop": {"padding": 4, "area": 0.5}}),
        f"{_DATASET}.augmentation.crop",
        "a crop needs exactly one of padding",
        True,
    ),
    Case(
        "crop of no kind",
        put(f"{_DATASET}.augmentation", {"crop": {}}),
        f"{_DATASET}.augmentation.crop",
        "exactly one of padding",
        True,
    ),
    Case(
        "given normalization without numbers",
        put(f"{_DATASET}.normalization", {"source": "given"}),
        f"{_DATASET}.normalization.source",
        "mean and std go with source given, both of them; source is given",
        True,
    ),
    Case(
        "numbers of a normalization that computes them",
        put(f"{_DATASET}.normalization", {"mean": [0.5], "std": [0.5]}),
        f"{_DATASET}.normalization.source",
        "source is training-split",
        True,
    ),
    Case(
        "mean and std of different lengths",
        put(f"{_DATASET}.normalization", {"source": "given", "mean": [0.5], "std": [0.5, 0.5, 0.5]}),
        f"{_DATASET}.normalization.std",
        "their lengths differ",
        True,
    ),
    Case(
        "std of 0",
        put(f"{_DATASET}.normalization", {"source": "given", "mean": [0.5], "std": [0]}),
        f"{_DATASET}.normalization.std",
        "make each of its numbers greater than 0",
        True,
    ),
)

BOUNDS = (
    Case(
        "number that is no choice",
        dataset(name="synthetic", channels=2),
        f"{_DATASET}.channels",
        "2 is not supported; allowed: 1, 3",
    ),
    Case(
        "free-form arguments as a list",
        dataset(factory="a:b", arguments=[1]),
        f"{_DATASET}.arguments",
        "must be a mapping of fields",
    ),
    Case(
        "item of a list above its maximum",
        put(f"{_DATASET}.normalization", {"source": "given", "mean": [11], "std": [1]}),
        f"{_DATASET}.normalization.mean[0]",
        "must be at most 10, not 11",
    ),
    Case(
        "too many channels",
        put(f"{_DATASET}.normalization", {"source": "given", "mean": [0, 0, 0, 0], "std": [1, 1, 1]}),
        f"{_DATASET}.normalization.mean",
        "must have at most 3 items, not 4",
    ),
)

ACCEPTED = (
    ("a folder of images", folder(imageSize=64, channels=1, split={"validation": 0.2, "seed": 3}, unreadable="skip")),
    ("a folder in an object store", dataset(name="image-folder", uri="s3://bucket/flowers", loader={"workers": 0})),
    ("a relative folder", dataset(name="cifar-10", uri="data/cifar-10-batches-bin")),
    ("a folder with a blank", dataset(name="image-folder", uri="~/My Pictures (1)/flowers")),
    ("made images", dataset(name="synthetic", samples=500, classes=5, imageSize=16, channels=3)),
    (
        "a factory",
        dataset(factory="flowers.data:Loader.load", arguments={"side": 8, "names": ["a", None]}, split={"seed": 1}),
    ),
    (
        "every augmentation",
        put(
            f"{_DATASET}.augmentation",
            {
                "horizontalFlip": 0.5,
                "verticalFlip": 1,
                "crop": {"area": 0.08},
                "fill": "nearest",
                "mixup": 0.2,
                "cutmix": 1,
            },
        ),
    ),
    ("a given normalization", put(f"{_DATASET}.normalization", {"source": "given", "mean": [0], "std": [1]})),
    ("balanced sampling", both(put(f"{_DATASET}.sampling", "balanced"), put(f"{_DATASET}.classWeights", "balanced"))),
    ("null for a name beside a factory", both(put(_DATASET, {"name": None, "factory": "a:b"}))),
)
