"""How the work of a step is divided among processes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scaling_api.base import Model, Rule

_Axis = Annotated[int, Field(ge=1, le=4096)]


class Parallelism(Model):
    """How the work of a step is divided: a mesh of training processes along up to four axes."""

    data: _Axis | None = Field(
        None,
        description="Replicas of the model, which divide the batch. Absent: all slots of the workers, elastically "
        "between their min and max; without a cluster one per GPU, or one.",
    )
    fsdp: _Axis = Field(
        1,
        description="Processes that divide the batch and also keep a share each of parameters, gradients and "
        "optimizer state.",
    )
    tensor: _Axis = Field(1, description="Processes that work on the same samples and divide the layers' channels.")
    pipeline: _Axis = Field(
        1,
        description="Stages that the model's blocks are cut into, a process each, through which micro-batches flow; "
        "for vit-tiny.",
    )
    batch_norm: Literal["local", "sync"] = Field(
        "local",
        description="Whose samples batch norm normalises by: each process's own, or those of the whole batch.",
    )

    auto: bool = Field(
        False,
        description="Whether to choose the axes, and micro-batches where memory is short, for the workers at hand: by "
        "a model of memory and communication, measured when training starts and again with another number of workers.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!self.auto || (!has(self.data) && self.fsdp == 1 && self.tensor == 1 && self.pipeline == 1)",
            lambda self: not self.auto or (self.data is None and self.model_group == 1),
            "auto chooses the axes: leave out data, fsdp, tensor and pipeline, or auto",
            field="auto",
        ),
        Rule(
            "self.pipeline == 1 || (self.fsdp == 1 && self.tensor == 1)",
            lambda self: self.pipeline == 1 or (self.fsdp == 1 and self.tensor == 1),
            "the stages of pipeline {pipeline} are whole on their processes: leave out fsdp and tensor, or pipeline",
            field="pipeline",
        ),
    )

    @property
    def model_group(self) -> int:
        """Processes that hold one replica of the model together."""
        return self.pipeline * self.fsdp * self.tensor

    @property
    def workers(self) -> int | None:
        """Training processes in all; None when their number is elastic."""
        return None if self.data is None else self.data * self.model_group
