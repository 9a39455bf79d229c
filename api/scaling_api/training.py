"""The section that says how a network is trained; it means the same on any machine."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scaling_api.base import Model, Rule
from scaling_api.optim import EarlyStopping, EmaSpec, OptimizerSpec, ScheduleSpec
from scaling_api.parallelism import Parallelism
from scaling_api.update import ElasticSpec, UpdateSpec, update_rules


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
    accumulation: Annotated[int, Field(ge=1, le=65_536)] = Field(
        1,
        description="Micro-batches that each process divides its share of a batch into: less memory, the same update.",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="Arithmetic of the forward and backward pass. Weights and their updates stay fp32; fp16 scales "
        "the loss.",
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of each label that is spread over all classes alike."
    )
    clip_norm: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(
        None, description="Scale the gradient down to this L2 norm, taken over all parameters, when it is longer."
    )
    ema: EmaSpec | None = Field(None, description="Evaluate and keep a moving average of the weights.")
    early_stopping: EarlyStopping | None = Field(
        None, description="End when a validation metric has stopped getting better; absent: after the last epoch."
    )
    deterministic: bool = Field(
        False, description="Choose kernels that give the same bits each time, where a faster one would not."
    )
    activation_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass instead of keeping them: less memory."
    )
    compile: bool = Field(False, description="Compile the model with torch.compile: slower to start, faster steps.")
    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec, description="The update rule.")
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec, description="The learning rate over time.")
    parallelism: Parallelism = Field(default_factory=Parallelism, description="How a step's work is divided.")
    update: UpdateSpec = Field(default_factory=UpdateSpec, description="When the workers' work is put together.")
    elastic: ElasticSpec = Field(
        default_factory=ElasticSpec, description="What another number of workers does to batch and rate."
    )
    checkpoint: CheckpointSpec = Field(default_factory=CheckpointSpec, description="When to save, and what to keep.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.batchSize >= (has(self.parallelism.data) ? self.parallelism.data : 1) * self.parallelism.fsdp",
            lambda self: self.batch_size >= (self.parallelism.data or 1) * self.parallelism.fsdp,
            "batchSize counts all workers together: {batchSize} leaves some of them without a sample; make it at least "
            "parallelism.data times fsdp",
            field="batchSize",
        ),
        Rule(
            "self.accumulation <= self.batchSize",
            lambda self: self.accumulation <= self.batch_size,
            "accumulation {accumulation} divides a batch of {batchSize} samples into more pieces than it has samples; "
            "make it at most batchSize",
            field="accumulation",
        ),
        # Torch's compiler takes no checkpoint that holds batch norm's statistics still in its second run.
        Rule(
            "!self.compile || !self.activationCheckpointing",
            lambda self: not self.compile or not self.activation_checkpointing,
            "compile and activationCheckpointing do not go together; choose one of them",
            field="compile",
        ),
        Rule(
            "!self.compile || self.parallelism.pipeline == 1",
            lambda self: not self.compile or self.parallelism.pipeline == 1,
            "the stages of parallelism.pipeline are not compiled: leave out compile, or pipeline",
            field="compile",
        ),
        *update_rules(),
    )
