"""The section that says how a network is trained; it means the same on any machine."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from scaling_api.base import Model, Rule
from scaling_api.optim import OptimizerSpec, ScheduleSpec
from scaling_api.parallelism import Parallelism


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
            "self.batchSize >= (has(self.parallelism.data) ? self.parallelism.data : 1) * self.parallelism.fsdp",
            lambda self: self.batch_size >= (self.parallelism.data or 1) * self.parallelism.fsdp,
            "batchSize counts all workers together: {batchSize} leaves some of them without a sample; make it at least "
            "parallelism.data times fsdp",
            field="batchSize",
        ),
    )
