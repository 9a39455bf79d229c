"""Looking at a data set before training on it: what may go wrong with it, and what would suit it.

Only numpy and PIL are needed. Of each split a fixed random selection is looked at, a thousand samples in
memory or some hundred files; the analysis says how many. Training and validation samples are looked at in full; of test
samples nothing but hashes comes out of the data set (`Dataset.test_hashes`), to find samples that are in training
too. So test data stays what only evaluate and report open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scaling_training.data.dataset import Dataset
from scaling_training.data.files import ImageFiles
from scaling_training.data.findings import (
    Analysis,
    Blank,
    ClassCount,
    Contradictions,
    LabelNoise,
    Pixels,
    Sizes,
    Unreadable,
)
from scaling_training.data.hashes import Hashes, difference_hashes, exact_hashes
from scaling_training.data.leakage import leakage
from scaling_training.data.neighbours import suspects
from scaling_training.data.normalise import moments, value_counts
from scaling_training.data.proposals import proposals, warnings
from scaling_training.data.reading import read_chunks, spread
from scaling_training.data.samples import Samples

# Samples looked at in each split: a tenth of a second's work in memory, a few seconds' for files.
IN_MEMORY = 1000
IN_FILES = 500
_NAMED = 20  # samples that are named, of any kind of finding
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def analyse(dataset: Dataset, *, most: int | None = None) -> Analysis:
    """Look at the data set; ``most`` samples of each split, `IN_MEMORY` or `IN_FILES` when absent."""
    train, validation = dataset.train, dataset.validation
    if most is None:
        most = IN_MEMORY if train.in_memory else IN_FILES
    look = _look(train, most)
    beside = _look(validation, most, pictures=False)
    counted = [_counted(dataset, part) for part in (train, validation)]
    splits = {
        "train": _hashes(train, look, most),
        "validation": _hashes(validation, beside, most),
        "test": dataset.test_hashes(most),
    }
    images = train.max_value is not None
    found = Analysis(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        classes=tuple(ClassCount(*row) for row in zip(dataset.class_names, *counted, strict=True)),
        imbalance=max(counted[0]) / min(counted[0]) if dataset.kind == "classes" else 1.0,
        unreadable=Unreadable(
            checked=look.checked + beside.checked,
            of=len(train) + len(validation),
            count=len(look.unreadable) + len(beside.unreadable),
            files=tuple((*look.unreadable, *beside.unreadable)[:_NAMED]),
        ),
        leakage=leakage(splits, labels=_labels_by_name(train, look)),
        contradictions=_contradictions(dataset, splits["train"].exact),
        blank=_blank(dataset, look) if images else None,
        label_noise=_label_noise(dataset, look) if images and dataset.kind == "classes" else None,
        pixels=_pixels(look.counts, train.max_value) if train.max_value and look.checked else None,
        sizes=_sizes(train, look.indices) if isinstance(train, ImageFiles) else None,
    )
    return replace(found, proposals=proposals(found, dataset.spec, dataset.input_shape), warnings=warnings(found))


def _counted(dataset: Dataset, samples: Samples) -> list[int]:
    """How many samples are of each class, or have each label."""
    if dataset.kind == "classes":
        return [int(count) for count in np.bincount(samples.labels, minlength=len(dataset.class_names))]
    return [int(count) for count in samples.targets.sum(axis=0)] if dataset.kind == "labels" else []


@dataclass(frozen=True, slots=True)
class _Look:
    """The samples that were looked at and could be read."""

    checked: int
    indices: NDArray[np.int64]
    pictures: NDArray[np.uint8]
    counts: NDArray[np.int64]
    unreadable: tuple[tuple[str, str], ...]
    perceptual: Mapping[str, int]


def _look(samples: Samples, most: int, *, pictures: bool = True) -> _Look:
    indices = spread(len(samples), most)
    images = samples.max_value is not None
    kept: list[NDArray[np.int64]] = []
    pieces: list[NDArray[np.uint8]] = []
    counts: NDArray[np.int64] = np.zeros((samples.shape[0] if images else 1, 256), dtype=np.int64)
    unreadable: list[tuple[str, str]] = []
    perceptual: dict[str, int] = {}
    for chunk, raw in read_chunks(samples, indices):
        unreadable += raw.unreadable.values()
        good = np.array([place for place in range(len(chunk)) if place not in raw.unreadable], dtype=np.int64)
        kept.append(chunk[good])
        if not images or not len(good):
            continue
        values = raw.values[good]
        perceptual |= zip(map(samples.name_of, chunk[good].tolist()), difference_hashes(values).tolist(), strict=True)
        if pictures:
            pieces.append(values)
            counts += value_counts(values)
    empty = np.empty((0, *samples.shape), dtype=np.uint8)
    return _Look(
        checked=len(indices),
        indices=np.concatenate(kept) if kept else np.empty(0, dtype=np.int64),
        pictures=np.concatenate(pieces) if pieces else empty,
        counts=counts,
        unreadable=tuple(unreadable),
        perceptual=perceptual,
    )


def _hashes(samples: Samples, look: _Look, most: int) -> Hashes:
    return Hashes(len(samples), exact_hashes(samples, most), look.perceptual)


def _labels_by_name(train: Samples, look: _Look) -> dict[str, int]:
    """A number for each sample that was looked at, the same for equal targets: its class, where there are classes."""
    alike = np.unique(train.targets[look.indices], axis=0, return_inverse=True)[1].reshape(-1)
    return {train.name_of(index): int(number) for index, number in zip(look.indices.tolist(), alike, strict=True)}


def _contradictions(dataset: Dataset, exact: Mapping[str, bytes]) -> Contradictions:
    first: dict[bytes, str] = {}
    equal = [(name, known) for name, digest in exact.items() if (known := first.setdefault(digest, name)) != name]
    if not equal or dataset.kind != "classes":
        return Contradictions(0, ())
    train, names = dataset.train, dataset.class_names
    labels = {train.name_of(index): names[label] for index, label in enumerate(train.labels)}
    pairs = [(name, labels[name], other, labels[other]) for name, other in equal if labels[name] != labels[other]]
    return Contradictions(len(pairs), tuple(pairs[:_NAMED]))


def _blank(dataset: Dataset, look: _Look) -> Blank:
    values = look.pictures.reshape(*look.pictures.shape[:2], -1)
    blank = (values.max(axis=2, initial=0) == values.min(axis=2, initial=255)).all(axis=1)
    labels = dataset.train.labels[look.indices]
    names = dataset.class_names if dataset.kind == "classes" else ("",)
    seen, of_them = (np.bincount(some, minlength=len(names)) for some in (labels, labels[blank]))
    return Blank(
        checked=len(labels),
        count=int(blank.sum()),
        samples=tuple(dataset.train.name_of(index) for index in look.indices[blank][:_NAMED].tolist()),
        classes=tuple(names[label] for label in np.flatnonzero((of_them == seen) & (seen > 0)) if names[label]),
    )


def _label_noise(dataset: Dataset, look: _Look) -> LabelNoise | None:
    train, names = dataset.train, dataset.class_names
    labels = train.labels[look.indices]
    found = suspects(look.pictures, labels, classes=len(names))
    if found is None:
        return None
    named = tuple(
        (train.name_of(int(look.indices[position])), names[labels[position]], names[rival])
        for position, rival in zip(found.positions[:_NAMED].tolist(), found.rivals[:_NAMED].tolist(), strict=True)
    )
    return LabelNoise(len(labels), round(found.agreement, 4), round(len(found.positions) / len(labels), 4), named)


def _pixels(counts: NDArray[np.int64], max_value: int) -> Pixels:
    mean, std = moments(counts)
    share = np.cumsum(counts, axis=1) / counts.sum(axis=1, keepdims=True)
    low, median, high = ((share < quantile).sum(axis=1) / max_value for quantile in (0.25, 0.5, 0.75))
    return Pixels(
        mean=_rounded(mean / max_value),
        std=_rounded(std / max_value),
        median=_rounded(median),
        quartiles=tuple(zip(_rounded(low), _rounded(high), strict=True)),
    )


def _sizes(train: ImageFiles, indices: NDArray[np.int64]) -> Sizes | None:
    found = np.array([train.picture_size(index) for index in indices.tolist()], dtype=np.float64)
    if not len(found):
        return None
    width, height = np.quantile(found, _QUANTILES, axis=0).T.tolist()
    return Sizes(tuple(width), tuple(height), float(np.median(found.min(axis=1))))


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)
