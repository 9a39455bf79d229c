"""A task's model as this process holds it, and stepping it.

``parallelize`` lays the model over the mesh, in place and in this order: layers are divided along the tensor axis,
batch norm is synchronised, parameters are sharded along the fsdp axis (FSDP2; with a data axis too, replicas of the
shards, known as HSDP). Without an fsdp axis the gradients' mean over the data axis is MeanGradients' work. With a
pipeline axis the model is cut into stages instead (see `pipeline`).
Everything that holds parameters (optimizer, moving averages) is made afterwards, from ``replica.model``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from scaling_training.models.batch_norm import single_values
from scaling_training.models.dropout import keyed
from scaling_training.parallel.batch_norm import set_counting, synchronise_batch_norm
from scaling_training.parallel.gradients import MeanGradients
from scaling_training.parallel.mesh import Mesh
from scaling_training.parallel.plans import fsdp_blocks, pipeline_cut, tensor_plan
from scaling_training.parallel.recompute import recompute_blocks
from scaling_training.parallel.roles import apply_plan, check_plan

if TYPE_CHECKING:
    from scaling_api.spec import ScalingJobSpec
    from scaling_training.data.batches import Batch


class SteppedTask(Protocol):
    """What of a task a replica needs."""

    @property
    def model(self) -> nn.Module: ...

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]: ...

    def loss_sum(self, output: torch.Tensor, batch: Batch) -> torch.Tensor: ...


class Replica:
    """One process's part of the model on one mesh."""

    def __init__(
        self,
        task: SteppedTask,
        *,
        gradients: MeanGradients | None = None,
        around: Callable[[Batch], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._task = task
        self._gradients = gradients
        self._around = around

    @property
    def model(self) -> nn.Module:
        """Holds this process's parameters; those that are sharded are DTensors."""
        return self._task.model

    def forward_backward(self, batch: Batch, *, scale: float, sync: bool = True) -> torch.Tensor:
        """Forward and backward of one micro-batch; the sum of its samples' losses, detached.

        Gradients of ``scale`` times the sum are added up over the micro-batches. After one with ``sync``, the last of
        a step, each ``grad`` is the mean over the batch ranks. A step of N samples in all hence takes the scale
        batch ranks / N. With scale 0 the batch only stands in for a missing one: its loss is 0, and synchronised
        batch norm leaves it out. Every rank calls it equally often, with the same ``sync``.
        """
        single = single_values(self.model) if len(batch) == 1 else nullcontext()
        with keyed(self.model, batch.keys), single:
            return self._forward_backward(batch, scale=scale, sync=sync)

    def _forward_backward(self, batch: Batch, *, scale: float, sync: bool) -> torch.Tensor:
        set_counting(self.model, scale != 0)
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(sync)
        with self._around(batch):
            output = self.model(*self._task.inputs(batch))
            loss_sum = self._task.loss_sum(output, batch)
        if self._gradients is None or not sync:
            (loss_sum * scale).backward()  # type: ignore[no-untyped-call]
        else:
            self._gradients.open()
            try:
                (loss_sum * scale).backward()  # type: ignore[no-untyped-call]
            except BaseException:
                self._gradients.abandon()
                raise
            self._gradients.close()
        return loss_sum.detach() if scale != 0 else torch.zeros_like(loss_sum)

    def forward(self, batch: Batch) -> Any:
        """The model's output. With more axes than data, every rank calls it equally often; `rest` after the last."""
        with self._around(batch):
            return self.model(*self._task.inputs(batch))

    def rest(self) -> None:
        """Give the model its lasting parameters back, those which the optimizer holds.

        After a forward pass without a backward pass FSDP leaves gathered ones in place of the outermost layers', and
        what is set on those (as ``requires_grad``) is lost.
        """
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def check_model(model: nn.Module, mesh: Mesh, *, name: str) -> None:
    """UserError when the model cannot be divided along the mesh's axes; without communication."""
    tensor, stages = mesh.shape.tensor, mesh.shape.pipeline
    if tensor > 1:
        check_plan(model, tensor_plan(model, tensor, name=name), tensor, name=name)
    if stages > 1:
        pipeline_cut(model, stages, name=name)


def parallelize(
    task: SteppedTask,
    mesh: Mesh,
    *,
    spec: ScalingJobSpec,
    around: Callable[[Batch], AbstractContextManager[Any]] = nullcontext,
) -> Replica:
    """Lay the task's model over the mesh, in place; a collective operation.

    The model is on its device, with the same weights on every rank. ``around`` is entered for each forward pass and
    loss (mixed precision). UserError when the model cannot be divided so.
    """
    model, shape = task.model, mesh.shape
    name = spec.model.title
    check_model(model, mesh, name=name)
    if shape.pipeline > 1:
        # Imported late: torch's pipelining brings its tracer along, which takes a second.
        from scaling_training.parallel.pipeline import pipelined

        return pipelined(task, mesh, spec=spec, around=around)
    if shape.tensor > 1:
        axis = mesh.axis("tensor")
        apply_plan(model, tensor_plan(model, shape.tensor, name=name), axis)
    if spec.training.parallelism.batch_norm == "sync" and mesh.batch_group is not None:
        synchronise_batch_norm(model, mesh.batch_group)
    if spec.training.activation_checkpointing:
        recompute_blocks(model)
    gradients = None
    if shape.fsdp > 1:
        _shard_parameters(model, mesh)
    elif mesh.batch_group is not None:
        gradients = MeanGradients(model.parameters(), mesh.batch_group)
    return Replica(task, gradients=gradients, around=around)


def alone(
    task: SteppedTask, *, spec: ScalingJobSpec, around: Callable[[Batch], AbstractContextManager[Any]] = nullcontext
) -> Replica:
    """The task as it is, whole and with gradients of this process's own, for an update mode that asks for no more."""
    if spec.training.activation_checkpointing:
        recompute_blocks(task.model)
    return Replica(task, around=around)


def _shard_parameters(model: nn.Module, mesh: Mesh) -> None:
    # FSDP2 keeps its shards flat and takes no other memory format.
    model.to(memory_format=torch.contiguous_format)
    axis = mesh.axis("data", "fsdp") if mesh.shape.data > 1 else mesh.axis("fsdp")
    for block in fsdp_blocks(model):
        fully_shard(block, mesh=axis)
    fully_shard(model, mesh=axis)
    if axis.device_type == "cpu":
        # gloo has no mean: it adds up, and FSDP divides.
        assert isinstance(model, FSDPModule)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)
