"""image-folder: a folder per class, below train, validation and test or directly below the place; see `arrangement`.

What has no folder of its own (validation, test) is divided off the training images, stratified and seeded.
Classes are numbered in the order of their folders' names. The fingerprint covers the names and sizes of all
files, and their content when they are few (`HASHED_BYTES` in all); beyond that it covers what the listing says
of a change, which is a store's checksum or the time of the last write. What the folders were taken for is part of it
where it is not plain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from scaling_api.redaction import redacted
from scaling_api.spec import DatasetSpec
from scaling_training.data.arrangement import Folders, arrange
from scaling_training.data.dataset import Dataset, divided
from scaling_training.data.files import ImageFiles
from scaling_training.data.naming import shown
from scaling_training.data.place import Entry, Place
from scaling_training.data.samples import Samples

# A tenth of a second to read and hash from a warm disk.
HASHED_BYTES = 64 * 2**20
DEFAULT_SIZE = 224
_FIRST_PARTS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}


def open_image_folder(spec: DatasetSpec) -> Dataset:
    """The data set of the spec; UserError for a folder that cannot be trained on."""
    assert spec.uri is not None, "a rule of the spec"
    place = Place(spec.uri)
    listing = place.listing()
    arrangement = arrange(listing, uri=spec.uri)
    folders = arrangement.folders
    class_names = tuple(folders["train"])
    parts: dict[str, Samples] = {part: _files(spec, place, classes, class_names) for part, classes in folders.items()}
    used = {entry.name for classes in folders.values() for files in classes.values() for entry in files}
    return divided(
        spec,
        name=f"image-folder {redacted(spec.uri)}",
        class_names=tuple(map(shown, class_names)),
        parts=parts,
        fingerprint=lambda: _fingerprint(
            spec, place, [entry for entry in listing.files if entry.name in used], meaning=_meaning(folders)
        ),
        places=arrangement.places,
        left_alone=arrangement.left_alone,
    )


def _files(
    spec: DatasetSpec, place: Place, classes: Mapping[str, Sequence[Entry]], class_names: Sequence[str]
) -> ImageFiles:
    listed = [(entry, label) for label, name in enumerate(class_names) for entry in classes.get(name, ())]
    crop = spec.augmentation.crop
    return ImageFiles(
        place,
        np.array([entry.name.encode("utf-8", "surrogateescape") for entry, _ in listed], dtype=np.bytes_),
        np.array([entry.size for entry, _ in listed], dtype=np.int64),
        np.array([label for _, label in listed], dtype=np.int64),
        image_size=spec.image_size or DEFAULT_SIZE,
        channels=spec.channels or 3,
        crop_area=crop.area if crop is not None else None,
    )


def _meaning(folders: Folders) -> str:
    """What the folders were taken for, where version 0.1.0 took them for something else; empty elsewhere.

    It read splits by these exact names alone, and everything else as classes: its work on those is other work.
    """
    names = [entry.name.split("/") for classes in folders.values() for files in classes.values() for entry in files]
    in_parts = {"train"} <= {parts[0] for parts in names} <= set(_FIRST_PARTS)
    for part, classes in folders.items():
        for name, files in classes.items():
            for entry in files:
                at = entry.name.split("/")
                taken = (_FIRST_PARTS[at[0]], *at[1:2]) if in_parts else ("train", at[0])
                if taken != (part, name):
                    return repr({part: sorted(classes) for part, classes in folders.items()})
    return ""


def _fingerprint(spec: DatasetSpec, place: Place, entries: Sequence[Entry], *, meaning: str) -> str:
    digest = hashlib.sha256(meaning.encode("utf-8", "surrogateescape"))
    few = sum(entry.size for entry in entries) <= HASHED_BYTES
    # What is divided off, and into what the files are decoded, are the spec's part in the content.
    split = spec.split.to_json_dict() if spec.split else {}
    digest.update(repr((spec.image_size, spec.channels, sorted(split.items()))).encode())
    for entry in entries:
        digest.update(repr((entry.name, entry.size, "" if few else entry.stamp)).encode())
        if few:
            try:
                digest.update(hashlib.sha256(place.read(entry.name)).digest())
            except OSError as error:
                digest.update(repr(error.errno).encode())
    return digest.hexdigest()
