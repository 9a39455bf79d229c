"""Laying a task's model over a mesh, which gives the Replica that a loop steps.

In place and in this order: layers are divided along the tensor axis,
batch norm is synchronised, parameters are sharded along the fsdp axis (FSDP2; with a data axis too, replicas of the
shards, known as HSDP). Without an fsdp axis the gradients' mean over the data axis is MeanGradients' work. With a
pipeline axis the model is cut into stages instead (see `pipeline`).
Everything that holds parameters (optimizer, moving averages) is made afterwards, from ``replica.model``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from scaling_training.parallel.batch_norm import synchronise_batch_norm
from scaling_training.parallel.blocks import repeated_blocks
from scaling_training.parallel.gradients import MeanGradients
from scaling_training.parallel.mesh import Mesh
from scaling_training.parallel.plans import pipeline_cut, tensor_plan
from scaling_training.parallel.recompute import recompute_blocks
from scaling_training.parallel.replica import Replica, SteppedTask
from scaling_training.parallel.roles import apply_plan, check_plan

if TYPE_CHECKING:
    from scaling_api.spec import ScalingJobSpec
    from scaling_training.data.batches import Batch


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
    for block in repeated_blocks(model):
        fully_shard(block, mesh=axis)
    fully_shard(model, mesh=axis)
    if axis.device_type == "cpu":
        # gloo has no mean: it adds up, and FSDP divides.
        assert isinstance(model, FSDPModule)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)
