"""What each layer does when channels are divided along the tensor axis, and the table that turns roles into layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TypeVar

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.modules.batchnorm import _BatchNorm

from scaling_training.errors import UserError
from scaling_training.parallel.batch_norm import ParallelBatchNorm
from scaling_training.parallel.collectives import gather_sharded
from scaling_training.parallel.layers import ColumnConv2d, DepthwiseConv2d, RowConv2d

M = TypeVar("M", bound=nn.Module)


class Role(Enum):
    """A layer's part in a division. Layers without a role are whole on every rank."""

    COLUMN = "column"  # whole input, this rank's output channels
    ROW = "row"  # this rank's input channels, whole output
    LOCAL = "local"  # this rank's channels in and out: depthwise convolutions, batch norm
    GATHER = "gather"  # its input, this rank's channels, is gathered first; the layer itself is whole


Plan = Mapping[str, Role]  # by the layer's path in the model


def apply_plan(model: nn.Module, plan: Plan, mesh: DeviceMesh) -> None:
    """Divide the model's layers in place along the 1-d mesh; each rank keeps its slices of the parameters."""
    for path, role in plan.items():
        parent_path, _, name = path.rpartition(".")
        parent, layer = model.get_submodule(parent_path), model.get_submodule(path)
        setattr(parent, name, _divide(role, layer, mesh))


def check_plan(model: nn.Module, plan: Plan, ranks: int, *, name: str) -> None:
    """UserError when a layer's channels do not divide by the ranks."""
    for path, role in plan.items():
        channels = divided_channels(role, model.get_submodule(path))
        if channels is not None and channels % ranks:
            raise UserError(
                f"training.parallelism.tensor {ranks} does not divide the {channels} channels of layer {path} of "
                f"model {name}; choose a divisor of {channels}, or another model.width"
            )


def divided_channels(role: Role, layer: nn.Module) -> int | None:
    """How many channels are divided among the ranks; None when none of the layer's are."""
    match role, layer:
        case Role.COLUMN, nn.Conv2d():
            return layer.out_channels
        case Role.ROW, nn.Conv2d():
            return layer.in_channels
        case Role.COLUMN, nn.Linear():
            return layer.out_features
        case Role.ROW, nn.Linear():
            return layer.in_features
        case Role.LOCAL, nn.Conv2d():
            return layer.out_channels
        case Role.LOCAL, _BatchNorm():
            return layer.num_features
        case _:
            return None


def _column_linear(layer: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return parallelize_module(layer, mesh, ColwiseParallel())


def _row_linear(layer: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return parallelize_module(layer, mesh, RowwiseParallel())


def _gather(layer: nn.Module, mesh: DeviceMesh) -> nn.Module:
    group = mesh.get_group()

    def gathered(module: nn.Module, values: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (gather_sharded(values[0], 1, group),)

    layer.register_forward_pre_hook(gathered)
    return layer


def _typed(kind: type[M], divide: Callable[[M, DeviceMesh], nn.Module]) -> tuple[type[nn.Module], _Divide]:
    def checked(layer: nn.Module, mesh: DeviceMesh) -> nn.Module:
        assert isinstance(layer, kind)
        return divide(layer, mesh)

    return kind, checked


_Divide = Callable[[nn.Module, DeviceMesh], nn.Module]

_DIVISIONS: tuple[tuple[Role, tuple[type[nn.Module], _Divide]], ...] = (
    (Role.COLUMN, _typed(nn.Conv2d, ColumnConv2d)),
    (Role.COLUMN, _typed(nn.Linear, _column_linear)),
    (Role.ROW, _typed(nn.Conv2d, RowConv2d)),
    (Role.ROW, _typed(nn.Linear, _row_linear)),
    (Role.LOCAL, _typed(nn.Conv2d, DepthwiseConv2d)),
    (Role.LOCAL, _typed(_BatchNorm, lambda norm, mesh: ParallelBatchNorm.of(norm, tensor=mesh))),
    (Role.GATHER, _typed(nn.Module, _gather)),
)


def _divide(role: Role, layer: nn.Module, mesh: DeviceMesh) -> nn.Module:
    for known, (kind, divide) in _DIVISIONS:
        if known is role and isinstance(layer, kind):
            return divide(layer, mesh)
    raise AssertionError(f"no division of {type(layer).__name__} by {role}")
