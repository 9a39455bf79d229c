"""A data set that is open: three splits, what is known of them, and their feeds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaling_api.spec import DatasetSpec
from scaling_training.data.access import TestAccess
from scaling_training.data.arrays import ImageArrays
from scaling_training.data.normalise import Normalisation, normalisation
from scaling_training.data.order import DataOrder
from scaling_training.data.samples import Samples
from scaling_training.data.splits import Fractions, stratified_split
from scaling_training.data.targets import Kind
from scaling_training.errors import UserError

if TYPE_CHECKING:
    import torch

    from scaling_training.data.feed import Feed
    from scaling_training.data.hashes import Hashes

# Reading processes of a training process for files, at most; more rarely help one network.
_MOST_WORKERS = 4
_NAMED = 5  # classes that a sentence names


@dataclass(frozen=True)
class Dataset:
    """A data set in its three splits; the test split opens only with a token."""

    spec: DatasetSpec
    name: str
    class_names: tuple[str, ...]
    train: Samples
    validation: Samples
    _test: Samples = field(repr=False)
    _fingerprint: Callable[[], str] = field(repr=False)
    found: str = ""  # in one line: how many classes, and how many samples of each split, and where
    kind: Kind = "classes"  # of what is to be learned of a sample

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over content and split; see docs/data.md for what stands for the content of many files."""
        return self._fingerprint()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample; of an image: channels, height, width."""
        return self.train.shape

    @property
    def max_value(self) -> int | None:
        """What raw pixels are divided by; None when the samples are no images."""
        return self.train.max_value

    @property
    def outputs(self) -> int:
        """How many numbers a model gives for a sample: one for each class or label, or those to be predicted."""
        if self.kind != "numbers":
            return len(self.class_names)
        return 1 if self.train.targets.ndim == 1 else int(self.train.targets.shape[1])

    @cached_property
    def normalisation(self) -> Normalisation | None:
        """What every split is normalised by; None when the samples are no images."""
        return None if self.max_value is None else normalisation(self.spec.normalization, self.train)

    def open_test(self, access: TestAccess) -> Samples:
        """The test split, for a stage that holds a token."""
        if not isinstance(access, TestAccess):
            raise PermissionError("the test split opens only with a TestAccess, which evaluate and report hold")
        return self._test

    def test_hashes(self, most: int) -> Hashes:
        """Hashes of test samples, to look for the same samples in other splits; ``most`` as for `hashes`.

        Needs no token: neither pictures nor labels come out, so nothing can be chosen by them.
        """
        from scaling_training.data.hashes import hashes

        return hashes(self._test, most)

    def order(self, *, seed: int, batch_size: int) -> DataOrder:
        """The order in which the training samples are consumed."""
        balanced = self.train.labels if self.spec.sampling == "balanced" else None
        return DataOrder(seed=seed, samples=len(self.train), batch_size=batch_size, balanced=balanced)

    def class_weights(self) -> tuple[float, ...] | None:
        """What each class's losses are multiplied by; None when all count alike.

        ``samples / (classes * samples of the class)``, as scikit-learn's "balanced": their mean over the training
        samples is 1, so that the learning rate keeps its meaning.
        """
        if self.spec.class_weights == "none":
            return None
        counts = np.bincount(self.train.labels, minlength=len(self.class_names))
        return tuple((len(self.train) / (len(counts) * counts)).tolist())

    def feed(self, split: Samples, *, device: torch.device, seed: int, training: bool = False) -> Feed:
        """The batches of a split; with ``training`` augmented and mixed, and split must be the training split."""
        from scaling_training.data.augment import ImageAugmentation, is_identity
        from scaling_training.data.feed import Feed
        from scaling_training.data.mix import Mixing

        augmentation, samples = self.spec.augmentation, len(split)
        changes = mixing = None
        if training and not is_identity(augmentation):
            changes = ImageAugmentation(augmentation, seed=seed, samples=samples, crops_area=split.in_memory)
        if training and (augmentation.mixup or augmentation.cutmix):
            order = self.order(seed=seed, batch_size=1)
            classes = len(self.class_names)
            mixing = Mixing(augmentation, seed=seed, samples=samples, classes=classes, order=order)
        loader = self.spec.loader
        return Feed(
            split,
            device=device,
            seed=seed,
            normalisation=self.normalisation,
            augmentation=changes,
            mixing=mixing,
            workers=_default_workers(split) if loader.workers is None else loader.workers,
            prefetch=loader.prefetch,
            unreadable=self.spec.unreadable,
        )


def _default_workers(split: Samples) -> int:
    return 0 if split.in_memory else min(_MOST_WORKERS, len(os.sched_getaffinity(0)))


def divided(
    spec: DatasetSpec,
    *,
    name: str,
    class_names: tuple[str, ...],
    parts: dict[str, Samples],
    fingerprint: Callable[[], str] | None = None,
    fractions: Fractions | None = None,
    seed: int | None = None,
    places: Mapping[str, str] | None = None,
    left_alone: Sequence[str] = (),
    kind: Kind = "classes",
) -> Dataset:
    """The data set of the parts that there are: train, and validation and test or what is divided off train.

    ``places`` says where a part was found, ``left_alone`` what else was there. ``fractions`` and ``seed`` default to
    those of the spec's split. UserError when a class is missing in a part.
    """
    split = spec.split
    if fractions is None:
        shares = {"validation": split.validation if split else 0.1, "test": split.test if split else 0.2}
        wanted = {part: 0.0 if part in parts else share for part, share in shares.items()}
        fractions = Fractions(train=1.0 - sum(wanted.values()), **wanted)
    whole = parts["train"]
    if kind != "classes":
        _refuse_class_fields(spec, kind)
    elif len(class_names) < 2:
        raise UserError(f"dataset {name} has {len(class_names)} class ({', '.join(class_names)}); two are needed")
    else:
        for part, samples in parts.items():  # before the split, which draws a stream for each class
            check_range(samples.labels, class_names, part=part, name=name)
    chosen_seed = (split.seed if split else 0) if seed is None else seed
    strata = class_names if kind == "classes" else None
    pieces = stratified_split(whole.labels, fractions, seed=chosen_seed, class_names=strata)
    splits = {
        part: parts[part] if part != "train" and part in parts else whole.take(piece)
        for part, piece in zip(("train", "validation", "test"), pieces, strict=True)
    }
    if kind == "classes":
        for part, samples in splits.items():
            check_classes(samples.labels, class_names, part=part, name=name)
    if splits["train"].max_value is None:
        _refuse_image_fields(spec)
    return Dataset(
        spec=spec,
        name=name,
        class_names=class_names,
        train=splits["train"],
        validation=splits["validation"],
        _test=splits["test"],
        _fingerprint=fingerprint or (lambda: content_fingerprint(splits)),
        found=_found(name, kind, class_names, splits, given=parts, places=places or {}, left_alone=left_alone),
        kind=kind,
    )


def _found(
    name: str,
    kind: Kind,
    class_names: Sequence[str],
    splits: Mapping[str, Samples],
    *,
    given: Mapping[str, Samples],
    places: Mapping[str, str],
    left_alone: Sequence[str],
) -> str:
    """The sentence of `Dataset.found`."""
    told = []
    for part, called in (("train", "training"), ("validation", "validation"), ("test", "test")):
        place = f" in {places[part]}" if part in places else "" if part in given else " divided off training"
        told.append(f"{len(splits[part]):,} {called}{place}")
    more = ", ..." if len(class_names) > _NAMED else ""
    beside = f"; left alone: {', '.join(left_alone)}" if left_alone else ""
    learned = f"{len(class_names):,} {kind} ({', '.join(class_names[:_NAMED])}{more})"
    return (
        f"dataset {name}: {learned if kind != 'numbers' else 'numbers to predict'}; samples: {', '.join(told)}{beside}"
    )


def check_classes(labels: NDArray[np.int64], class_names: tuple[str, ...], *, part: str, name: str) -> None:
    """UserError unless each class has a sample in this part; labels are those of `check_range`."""
    counts = np.bincount(labels, minlength=len(class_names))
    missing = [class_names[index] for index in np.flatnonzero(counts == 0)[:5]]
    if missing:
        raise UserError(
            f"dataset {name}: {part} has no sample of class {', '.join(missing)}; add some, or remove the class "
            "from the other parts"
        )


def check_range(labels: NDArray[np.int64], class_names: tuple[str, ...], *, part: str, name: str) -> None:
    """UserError unless each label is the number of a class."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(class_names):
        raise UserError(
            f"dataset {name}: labels of {part} run from {labels.min()} to {labels.max()}, but there are "
            f"{len(class_names)} classes; number the classes from 0"
        )


def content_fingerprint(splits: Mapping[str, Samples]) -> str:
    """SHA-256 over splits in memory."""
    digest = hashlib.sha256()
    for samples in splits.values():
        assert isinstance(samples, ImageArrays)
        for array in (samples.images, samples.targets):
            # Shape and type first: else two arrays that differ only in those would look alike.
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _refuse_class_fields(spec: DatasetSpec, kind: Kind) -> None:
    why = f"is for classes, and the targets are {kind}; remove it"
    if spec.sampling != "natural":
        raise UserError(f"dataset.sampling {spec.sampling} {why}")
    if spec.class_weights != "none":
        raise UserError(f"dataset.classWeights {spec.class_weights} {why}")
    if spec.augmentation.mixup or spec.augmentation.cutmix:
        raise UserError(f"dataset.augmentation.{'mixup' if spec.augmentation.mixup else 'cutmix'} {why}")


def _refuse_image_fields(spec: DatasetSpec) -> None:
    from scaling_api.spec import Augmentation, NormalizationSpec

    if spec.augmentation != Augmentation():
        raise UserError("dataset.augmentation changes images, but the factory's samples are none; remove it")
    if spec.normalization != NormalizationSpec():
        raise UserError("dataset.normalization is for images, but the factory's samples are none; remove it")
