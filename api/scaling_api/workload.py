"""The sections that say what is trained: model, dataset and training. They mean the same on any machine."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scaling_api.base import Model, Rule


class ModelSpec(Model):
    """The network to train."""

    name: Literal["small-cnn"] = Field(
        description="small-cnn: convolutions of 32, 64 and 128 channels with batch norm, a dense layer of 512."
    )
    width: Annotated[float, Field(gt=0, le=8)] = Field(
        1.0, description="Multiplier of all channel counts, at least 0.125."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        # A rule, because the API server cuts a fractional lower bound down to a whole number.
        Rule(
            "self.width >= 0.125",
            lambda self: self.width >= 0.125,
            "width {width} leaves too few channels; make it at least 0.125",
            field="width",
        ),
    )


class Augmentation(Model):
    """Random affine changes of the training images, drawn anew for each sample and epoch."""

    rotation: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="Largest rotation, degrees, either way.")
    shift: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="Largest shift along each axis, as a fraction of the image."
    )
    zoom: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.0, description="Largest change of scale: 0.1 draws from 0.9 to 1.1."
    )
    shear: Annotated[float, Field(ge=0, le=60)] = Field(0.0, description="Largest shear, degrees, either way.")


class DatasetSpec(Model):
    """The data to train on."""

    name: Literal["digits", "mnist-5k"] = Field(
        description="digits: scikit-learn's 1,797 8x8 digits. mnist-5k: 5,000 MNIST images, split 3,500/500/1,000."
    )
    augmentation: Augmentation = Field(
        default_factory=Augmentation, description="Random changes of the training images; none by default."
    )


class OptimizerSpec(Model):
    """The update rule."""

    name: Literal["sgd", "adam", "adamw"] = Field("adam", description="Which optimizer.")
    learning_rate: Annotated[float, Field(gt=0, le=100)] = Field(
        1e-3, description="Learning rate; under a schedule its peak."
    )
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0, description="L2 penalty (sgd, adam) or decoupled decay (adamw)."
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="Momentum of sgd; 0 when absent.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.momentum) || self.name == 'sgd'",
            lambda self: self.momentum is None or self.name == "sgd",
            "momentum {momentum} belongs to optimizer sgd, not to {name}; remove it or choose sgd",
            field="momentum",
        ),
    )


class ScheduleSpec(Model):
    """The learning rate over the steps of the run."""

    name: Literal["constant", "cosine", "one-cycle"] = Field(
        "constant",
        description="constant; cosine: half a cosine down to 0; one-cycle: cosine up to the peak, then down to "
        "almost 0.",
    )
    warmup_fraction: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.0,
        description="Share of all steps spent rising: linearly for constant and cosine, by a cosine for one-cycle.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.name != 'one-cycle' || self.warmupFraction > 0.0",
            lambda self: self.name != "one-cycle" or self.warmup_fraction > 0,
            "schedule one-cycle rises before it falls: warmupFraction must be above 0 (0.3 is usual), it is "
            "{warmupFraction}",
            field="warmupFraction",
        ),
    )


class Parallelism(Model):
    """How the work of a step is divided."""

    data: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None,
        description="Data-parallel training processes. Absent: all slots of the workers, elastically between their min "
        "and max; without a cluster one per GPU, or one.",
    )


class CheckpointSpec(Model):
    """When to save, and how much to keep."""

    every_epochs: Annotated[int, Field(ge=1, le=10_000)] = Field(1, description="Epochs between checkpoints.")
    every_steps: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = Field(
        None, description="Also save after so many optimizer steps."
    )
    keep: Annotated[int, Field(ge=1, le=1000)] = Field(
        2, description="Latest checkpoints to keep; the best one is always kept."
    )


class TrainingSpec(Model):
    """The training stage."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = Field(description="Passes over the training data.")
    batch_size: Annotated[int, Field(ge=1, le=1_048_576)] = Field(
        128, description="Samples per optimizer step over all workers together."
    )
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = Field(
        0, description="Determines initial weights, data order, augmentation and dropout."
    )
    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec, description="The update rule.")
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec, description="The learning rate over time.")
    parallelism: Parallelism = Field(default_factory=Parallelism, description="How a step's work is divided.")
    checkpoint: CheckpointSpec = Field(default_factory=CheckpointSpec, description="When to save, and what to keep.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.parallelism.data) || self.batchSize >= self.parallelism.data",
            lambda self: self.parallelism.data is None or self.batch_size >= self.parallelism.data,
            "batchSize counts all workers together: {batchSize} leaves some of the {parallelism.data} workers "
            "(parallelism.data) without a sample; make it at least {parallelism.data}",
            field="batchSize",
        ),
    )
