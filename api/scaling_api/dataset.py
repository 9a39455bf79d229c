"""The section that says on what data a network is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from scaling_api.base import Model, Rule
from scaling_api.code import FACTORY, Arguments
from scaling_api.constraints import Pattern

# The authority of a URI holds no colon, so that nobody writes a password where logs will show it.
_PLACE = Pattern(
    r"[a-z][a-z0-9+]*://[^\s:]*[^\s:/][^\s:]*|[^\s:]([^:\n\r\t]*[^\s:])?",
    "a place of data: write a path, or an address such as s3://bucket/folder without blanks and passwords",
)


class Crop(Model):
    """A random crop of training images, back to their size."""

    padding: Annotated[int, Field(ge=1, le=128)] | None = Field(
        None, description="Pixels added on each side before a part of the old size is cut out."
    )
    area: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="Smallest share of the image that is cut out and enlarged, with an aspect ratio of 3:4 to 4:3.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.padding) != has(self.area)",
            lambda self: (self.padding is None) != (self.area is None),
            "a crop needs exactly one of padding (cut from a padded image) and area (cut a part and enlarge it)",
            field="",
        ),
    )


class Augmentation(Model):
    """Random changes of the training images, drawn anew for each sample and epoch."""

    rotation: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="Largest rotation, degrees, either way.")
    shift: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="Largest shift along each axis, as a fraction of the image."
    )
    zoom: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.0, description="Largest change of scale: 0.1 draws from 0.9 to 1.1."
    )
    shear: Annotated[float, Field(ge=0, le=60)] = Field(0.0, description="Largest shear, degrees, either way.")
    horizontal_flip: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Chance of a mirror image, left to right; 0.5 is usual."
    )
    vertical_flip: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="Chance of turning upside down.")
    crop: Crop | None = Field(None, description="A random crop; none when absent.")
    fill: Literal["constant", "nearest"] = Field(
        "constant", description="What comes in from outside the image: black (0), or the nearest pixel."
    )
    mixup: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0, description="Alpha of mixup: shares of two images from Beta(alpha, alpha); 0 for none, 0.2 is usual."
    )
    cutmix: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0,
        description="Alpha of CutMix: a part of another image laid over; 0 for none, 1 is usual. With mixup each "
        "sample takes one of the two.",
    )


_PerChannel = Annotated[float, Field(ge=-10, le=10)]


class NormalizationSpec(Model):
    """How pixels are brought to about mean 0 and deviation 1. Pixels run from 0 to 1 before."""

    source: Literal["training-split", "imagenet", "given"] = Field(
        "training-split",
        description="Where mean and std come from: computed from the training images, ImageNet's, or given here.",
    )
    mean: Annotated[list[_PerChannel], Field(min_length=1, max_length=3)] | None = Field(
        None, description="What is subtracted, per channel."
    )
    std: Annotated[list[_PerChannel], Field(min_length=1, max_length=3)] | None = Field(
        None, description="What is divided by, per channel."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.source == 'given' ? has(self.mean) && has(self.std) : !has(self.mean) && !has(self.std)",
            lambda self: (self.mean is not None, self.std is not None) == (self.source == "given",) * 2,
            "mean and std go with source given, both of them; source is {source}",
            field="source",
        ),
        Rule(
            "!has(self.mean) || !has(self.std) || self.mean.size() == self.std.size()",
            lambda self: self.mean is None or self.std is None or len(self.mean) == len(self.std),
            "mean and std need a number per channel each; their lengths differ",
            field="std",
        ),
        Rule(
            "!has(self.std) || self.std.all(s, s > 0.0)",
            lambda self: self.std is None or all(value > 0 for value in self.std),
            "std is divided by; make each of its numbers greater than 0",
            field="std",
        ),
    )


class SplitSpec(Model):
    """Which shares of the data become validation and test data, where they have no folder of their own. Each class is
    split in the same proportion."""

    validation: Annotated[float, Field(gt=0, le=0.9)] = Field(0.1, description="Share of the validation data.")
    test: Annotated[float, Field(gt=0, le=0.9)] = Field(0.2, description="Share of the test data.")
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = Field(0, description="Determines which samples they are.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.validation + self.test < 0.95",
            lambda self: self.validation + self.test < 0.95,
            "split: validation {validation} and test {test} leave too little to train on; together they must be "
            "below 0.95",
            field="test",
        ),
    )


class LoaderSpec(Model):
    """Reading ahead, beside training. Data in memory needs none."""

    workers: Annotated[int, Field(ge=0, le=64)] | None = Field(
        None,
        description="Reading processes of each training process. Absent: for files up to 4, no more than there are "
        "cores; for data in memory none.",
    )
    prefetch: Annotated[int, Field(ge=1, le=64)] = Field(
        2, description="Batches that each of them reads ahead; memory for them is needed."
    )


def _named(names: Sequence[str]) -> tuple[str, Any]:
    """CEL and Python for "the data set is one of these"."""
    return f"has(self.name) && self.name in {list(names)}", lambda self: self.name in names


def _belongs(field: str, attribute: str, *names: str) -> Rule:
    """A field that only some data sets have."""
    cel, holds = _named(names)
    return Rule(
        f"!has(self.{field}) || ({cel})",
        lambda self: getattr(self, attribute) is None or holds(self),
        f"{field} belongs to data set {' and '.join(names)}; remove it, or choose one of these",
        field=field,
    )


_PLACED = ("image-folder", "cifar-10")


class DatasetSpec(Model):
    """The data to train on."""

    name: Literal["digits", "mnist-5k", "image-folder", "cifar-10", "synthetic"] | None = Field(
        None,
        description="digits: scikit-learn's 1,797 8x8 digits. mnist-5k: 5,000 MNIST images, split 3,500/500/1,000. "
        "image-folder: a folder per class. cifar-10: its binary files. synthetic: made images.",
    )
    factory: Annotated[str, StringConstraints(min_length=3, max_length=256), FACTORY] | None = Field(
        None, description="Instead of a name: package.module:function of the user's that returns the data."
    )
    arguments: Arguments | None = Field(None, description="Arguments of the factory.")
    uri: Annotated[str, StringConstraints(min_length=1, max_length=1024), _PLACE] | None = Field(
        None,
        description="Where the files are: a path that every pod has, or an address such as s3://bucket/folder.",
    )
    image_size: Annotated[int, Field(ge=8, le=1024)] | None = Field(
        None,
        description="Pixels a side. image-folder: images are resized to it by their shorter side and cropped to the "
        "centre (224 when absent). synthetic: 32 when absent.",
    )
    channels: Literal[1, 3] | None = Field(None, description="1: grayscale, 3: RGB, which is the default.")
    samples: Annotated[int, Field(ge=100, le=10_000_000)] | None = Field(
        None, description="synthetic: how many images, 2,000 when absent."
    )
    classes: Annotated[int, Field(ge=2, le=1000)] | None = Field(
        None, description="synthetic: how many classes, 10 when absent."
    )
    split: SplitSpec | None = Field(
        None, description="Shares of validation and test data, for a part that has no folder of its own."
    )
    unreadable: Literal["fail", "skip"] = Field(
        "fail",
        description="What to do with a file that cannot be read: end with its name, or use the next one of its class, "
        "leave it out of evaluations, and count.",
    )
    normalization: NormalizationSpec = Field(
        default_factory=NormalizationSpec, description="How pixels are scaled before the network sees them."
    )
    augmentation: Augmentation = Field(
        default_factory=Augmentation, description="Random changes of the training images; none by default."
    )
    sampling: Literal["natural", "balanced"] = Field(
        "natural", description="natural: each sample once an epoch. balanced: each class equally often."
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: a sample's loss counts the more, the rarer its class is; 1 on average."
    )
    loader: LoaderSpec = Field(default_factory=LoaderSpec, description="Reading ahead, beside training.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.name) != has(self.factory)",
            lambda self: (self.name is None) != (self.factory is None),
            "dataset needs exactly one of name (data that is known here) and factory (a function of yours)",
            field="",
        ),
        Rule(
            "!has(self.arguments) || has(self.factory)",
            lambda self: self.arguments is None or self.factory is not None,
            "arguments are those of a factory; name one, or remove them",
            field="arguments",
        ),
        Rule(
            f"!({_named(_PLACED)[0]}) || has(self.uri)",
            lambda self: self.name not in _PLACED or self.uri is not None,
            "uri is missing: say where the data set's files are, as a path or an address such as s3://bucket/folder",
            field="uri",
        ),
        _belongs("uri", "uri", *_PLACED),
        _belongs("imageSize", "image_size", "image-folder", "synthetic"),
        _belongs("channels", "channels", "image-folder", "synthetic"),
        _belongs("samples", "samples", "synthetic"),
        _belongs("classes", "classes", "synthetic"),
        Rule(
            "!has(self.split) || !has(self.name) || !(self.name in ['digits', 'mnist-5k'])",
            lambda self: self.split is None or self.name not in ("digits", "mnist-5k"),
            "the split of digits and mnist-5k is fixed, so that results can be compared; remove split",
            field="split",
        ),
    )
