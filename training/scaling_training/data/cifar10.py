"""CIFAR-10 in its own binary files (Krizhevsky 2009; the page's "binary version").

A record is one byte of class and 3,072 of pixels, 1,024 of red, green and blue each, row by row; a file holds
10,000 of them. The test batch is the test split; validation is divided off the five training batches.
"""

from __future__ import annotations

import numpy as np

from scaling_api.spec import DatasetSpec
from scaling_training.data.arrays import ImageArrays
from scaling_training.data.dataset import Dataset, divided
from scaling_training.data.place import Place
from scaling_training.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORDS = 10_000  # per file
_SIDE = 32
_RECORD = 1 + 3 * _SIDE * _SIDE
_TRAINING = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = ("test_batch.bin",)


def open_cifar10(spec: DatasetSpec) -> Dataset:
    """The data set at the spec's uri; UserError when a file is missing or has another size."""
    assert spec.uri is not None, "a rule of the spec"
    place = Place(spec.uri)
    place.entries()
    return divided(
        spec,
        name="cifar-10",
        class_names=CLASSES,
        parts={"train": _read(place, _TRAINING), "test": _read(place, _TEST)},
    )


def _read(place: Place, names: tuple[str, ...]) -> ImageArrays:
    tables = []
    for name in names:
        try:
            data = place.read(name)
        except FileNotFoundError as error:
            raise UserError(
                f"dataset.uri {place.uri} has no {name}; unpack cifar-10-binary.tar.gz and name the folder that "
                "holds data_batch_1.bin"
            ) from error
        except OSError as error:
            raise UserError(f"dataset.uri {place.uri}: {name} cannot be read ({error.strerror or error})") from error
        if len(data) != RECORDS * _RECORD:
            raise UserError(
                f"dataset.uri {place.uri}: {name} has {len(data)} bytes instead of {RECORDS * _RECORD}; "
                "it is incomplete or not of the binary version: download it anew"
            )
        tables.append(np.frombuffer(data, dtype=np.uint8).reshape(RECORDS, _RECORD))
    table = np.concatenate(tables)
    if table[:, 0].max() >= len(CLASSES):
        raise UserError(f"dataset.uri {place.uri}: a record's class is {table[:, 0].max()}; the files are damaged")
    images = np.ascontiguousarray(table[:, 1:]).reshape(-1, 3, _SIDE, _SIDE)
    return ImageArrays(images, table[:, 0].astype(np.int64), 255)
