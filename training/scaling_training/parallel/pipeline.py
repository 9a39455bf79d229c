"""A model in stages, a process each, through which the micro-batches of a batch flow.

Each process keeps the modules of its own stage, under their names in the whole model: neighbouring blocks, the first
stage also what comes before them, the last one what comes after. torch.distributed.pipelining sends activations and
their gradients between neighbours, by the 1F1B schedule (Narayanan et al. 2019, PipeDream; its flushing variant in
arXiv:2104.04473): with S stages and M micro-batches a share (S - 1) / (M + S - 1) of the time is spent waiting at
the ends, and a stage holds the activations of at most S micro-batches.

The schedule wants micro-batches of one size. The last one is filled up by repeating its last sample, and the loss
leaves out what was filled in; samples have nothing to do with one another in a model that can be cut, so nothing
else changes. The loss is a sum and so are gradients over the micro-batches; their mean over the data axis is taken
after the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from scaling_training.data.batches import Batch
from scaling_training.data.order import rank_slice
from scaling_training.models.dropout import keyed
from scaling_training.parallel.gradients import MeanGradients
from scaling_training.parallel.mesh import Mesh
from scaling_training.parallel.plans import Cut, pipeline_cut
from scaling_training.parallel.recompute import recompute_blocks
from scaling_training.parallel.replica import Replica, SteppedTask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.distributed.pipelining.stage import PipelineStageInfo

    from scaling_api.spec import ScalingJobSpec

# Micro-batches per stage, at most: about a fifth of the time is spent waiting. Smaller ones would use the device less.
MICRO_BATCHES_PER_STAGE = 4


def pipelined(
    task: SteppedTask,
    mesh: Mesh,
    *,
    spec: ScalingJobSpec,
    around: Callable[[Batch], AbstractContextManager[Any]] = nullcontext,
) -> PipelineReplica:
    """Cut the task's model, in place, down to this process's stage; as ``parallelize``."""
    model, stages = task.model, mesh.shape.pipeline
    if spec.training.activation_checkpointing:
        recompute_blocks(model)
    stage = Stage(model, pipeline_cut(model, stages, name=spec.model.title), mesh.pipeline_rank, stages)
    gradients = MeanGradients(model.parameters(), mesh.batch_group) if mesh.batch_group is not None else None
    group = mesh.group("pipeline")
    assert group is not None
    return PipelineReplica(task, stage, group, gradients=gradients, around=around)


class Stage(nn.Module):
    """A stage's share of the forward pass. Whatever belongs to other stages is taken out of the model."""

    def __init__(self, model: nn.Module, cut: Cut, number: int, stages: int) -> None:
        super().__init__()
        self.model = model
        self.number = number
        self.stages = stages
        self._enter = getattr(model, cut.enter) if number == 0 else None
        self._leave = getattr(model, cut.leave) if number == stages - 1 else None
        own = rank_slice(len(cut.blocks), number, stages)
        self._blocks = tuple(cut.blocks[own])
        for index in range(len(cut.blocks)):
            if not own.start <= index < own.stop:
                # A place without parameters keeps the names of the blocks after it.
                cut.blocks[index] = nn.Identity()
        foreign = (*(cut.first if number else ()), *(cut.last if number < stages - 1 else ()))
        for name in foreign:
            setattr(model, name, None)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The model's inputs, or what the stage before gave, [n, ...], to what the next one gets or the output."""
        if self._enter is not None:
            values = self._enter(values)
        for block in self._blocks:
            values = block(values)
        if self._leave is not None:
            output: torch.Tensor = self._leave(values)
            return output
        values = values.contiguous()
        if torch.is_grad_enabled() and not values.requires_grad:
            # Where all layers so far are frozen. What is sent must not change with that, which only this stage knows.
            values.requires_grad_()
        return values


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Part of a batch, filled up to the size of the others."""

    real: Batch
    filled: Batch


def micro_batches(batch: Batch, most: int) -> list[MicroBatch]:
    """Cut a batch into at most so many parts of equal size, each with at least one sample of its own."""
    size = -(-len(batch) // most)
    parts = []
    for start in range(0, len(batch), size):
        rows = torch.arange(start, start + size, device=batch.inputs.device).clamp(max=len(batch) - 1)
        parts.append(
            MicroBatch(
                Batch(*(values[start : start + size] for values in (batch.inputs, batch.targets, batch.keys))),
                Batch(*(values[rows] for values in (batch.inputs, batch.targets, batch.keys))),
            )
        )
    return parts


@contextmanager
def _own_errors() -> Iterator[None]:
    """What failed within a stage, such as for lack of memory, as it was raised: torch wraps it in a RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None


class PipelineReplica(Replica):
    """One process's stage of the model. Every process of a pipeline calls it with the same batches."""

    def __init__(
        self,
        task: SteppedTask,
        stage: Stage,
        group: dist.ProcessGroup,
        *,
        gradients: MeanGradients | None = None,
        around: Callable[[Batch], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        super().__init__(task, gradients=gradients, around=around)
        self._stage = stage
        self._group = group
        # By number and size of micro-batches, and whether there is a backward pass: a schedule has buffers for these.
        self._schedules: dict[tuple[int, int, bool], Schedule1F1B | ScheduleGPipe] = {}
        self._parts: Sequence[MicroBatch] = ()
        self._scale = 1.0
        self._losses: dict[int, torch.Tensor] = {}

    def forward_backward(self, batch: Batch, *, scale: float, sync: bool = True) -> torch.Tensor:
        """As Replica's: gradients of this stage's parameters, and the loss on every process of the pipeline."""
        schedule = self._begin(batch, trained=True)
        self._scale = scale
        with _own_errors():
            schedule.step(**self._inputs(), target_mbs=self._targets(), return_outputs=False)
        if sync and self._gradients is not None:
            # Each gradient has grown with every micro-batch, so none was complete before.
            self._gradients.open()
            self._gradients.close()
        loss_sum = torch.zeros((), dtype=torch.float64, device=batch.inputs.device)
        if scale != 0:
            for loss in self._losses.values():
                loss_sum += loss
        self._end()
        dist.broadcast(loss_sum, group=self._group, group_src=self._stage.stages - 1)
        return loss_sum

    def forward(self, batch: Batch) -> Any:
        """The model's output on the last stage, None on the others. Every process calls it equally often."""
        schedule = self._begin(batch, trained=False)
        with _own_errors():
            output = schedule.eval(**self._inputs())
        self._end()
        return output[: len(batch)] if output is not None else None

    def _begin(self, batch: Batch, *, trained: bool) -> Schedule1F1B | ScheduleGPipe:
        """The schedule for the batch, whose micro-batches are laid out for it."""
        self._parts = micro_batches(batch, MICRO_BATCHES_PER_STAGE * self._stage.stages)
        count, size = len(self._parts), len(self._parts[0].filled)
        key = (count, size, trained)
        if key not in self._schedules:
            self._schedules[key] = self._schedule(count, batch.inputs.device, trained=trained)
        return self._schedules[key]

    def _schedule(self, count: int, device: torch.device, *, trained: bool) -> Schedule1F1B | ScheduleGPipe:
        stage = PipelineStage(self._stage, self._stage.number, self._stage.stages, device, group=self._group)
        stage.register_forward_context(self._context)
        # 1F1B needs a micro-batch for each stage; with fewer, both schedules are alike in time and memory.
        kind = Schedule1F1B if count >= self._stage.stages else ScheduleGPipe
        return kind(stage, count, loss_fn=self._loss if trained else None, scale_grads=False)

    def _inputs(self) -> dict[str, Any]:
        if self._stage.number:
            return {"arg_mbs": [()] * len(self._parts)}
        return {"arg_mbs": [self._task.inputs(part.filled) for part in self._parts]}

    def _targets(self) -> list[torch.Tensor]:
        """Numbers of the micro-batches: the loss looks up the rest. Not on the device, which would have to be asked."""
        return [torch.tensor(number) for number in range(len(self._parts))]

    @contextmanager
    def _context(self, info: PipelineStageInfo) -> Iterator[None]:
        part = self._parts[info.microbatch_index].filled
        with ExitStack() as stack:
            stack.enter_context(keyed(self.model, part.keys))
            stack.enter_context(self._around(part))
            yield

    def _loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        number = int(target)
        part = self._parts[number].real
        with self._around(part):
            loss_sum = self._task.loss_sum(output[: len(part)], part)
        # Also called once more, for the first micro-batch, when the schedule finds out what shapes there are.
        self._losses[number] = loss_sum.detach()
        return loss_sum * self._scale

    def _end(self) -> None:
        """Let go of the batch."""
        self._parts = ()
        self._losses = {}
