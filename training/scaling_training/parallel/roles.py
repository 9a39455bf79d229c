"""What each layer does when channels are divided along the tensor axis, and the table that turns roles into layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.modules.batchnorm import _BatchNorm

from scaling_training.errors import UserError
from scaling_training.parallel.batch_norm import ParallelBatchNorm
from scaling_training.parallel.collectives import enter_sharded, gather_sharded
from scaling_training.parallel.layers import ColumnConv2d, ColumnLinear, DepthwiseConv2d, RowConv2d, RowLinear


class Role(Enum):
    """A layer's part in a division. Layers without a role are whole on every rank."""

    COLUMN = "column"  # whole input, this rank's output channels
    ROW = "row"  # this rank's input channels, whole output
    LOCAL = "local"  # this rank's channels in and out: depthwise convolutions, batch norm
    ENTER = "enter"  # its input is whole, and goes to INNER columns in it
    INNER = "inner"  # a column whose input was entered by a module around it
    GATHER = "gather"  # its input, this rank's channels, is gathered first; the layer itself is whole


Plan = Mapping[str, Role]  # by the layer's path in the model


@dataclass(frozen=True, slots=True)
class _Division:
    """How a layer of a kind takes a role: what is divided, and the layer that takes its place."""

    channels: Callable[[Any], int | None]
    divide: Callable[[Any, DeviceMesh], nn.Module]


def _entered(layer: nn.Module, mesh: DeviceMesh) -> nn.Module:
    group = mesh.get_group()
    return _before(layer, lambda values: enter_sharded(values, group))


def _gathered(layer: nn.Module, mesh: DeviceMesh) -> nn.Module:
    group = mesh.get_group()
    return _before(layer, lambda values: gather_sharded(values, 1, group))


def _before(layer: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    def changed(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(inputs[0]), *inputs[1:])

    layer.register_forward_pre_hook(changed)
    return layer


_DIVISIONS: Mapping[tuple[Role, type[nn.Module]], _Division] = {
    (Role.COLUMN, nn.Conv2d): _Division(lambda conv: conv.out_channels, ColumnConv2d),
    (Role.ROW, nn.Conv2d): _Division(lambda conv: conv.in_channels, RowConv2d),
    (Role.LOCAL, nn.Conv2d): _Division(lambda conv: conv.out_channels, DepthwiseConv2d),
    (Role.LOCAL, _BatchNorm): _Division(
        lambda norm: norm.num_features, lambda norm, mesh: ParallelBatchNorm.of(norm, tensor=mesh)
    ),
    (Role.COLUMN, nn.Linear): _Division(
        lambda linear: linear.out_features, lambda linear, mesh: ColumnLinear(linear, mesh, group=mesh.get_group())
    ),
    (Role.INNER, nn.Linear): _Division(
        lambda linear: linear.out_features, lambda linear, mesh: ColumnLinear(linear, mesh, group=None)
    ),
    (Role.ROW, nn.Linear): _Division(lambda linear: linear.in_features, RowLinear),
    (Role.ENTER, nn.Module): _Division(lambda _: None, _entered),
    (Role.GATHER, nn.Module): _Division(lambda _: None, _gathered),
}


def _division(role: Role, layer: nn.Module) -> _Division:
    return next(found for (known, kind), found in _DIVISIONS.items() if known is role and isinstance(layer, kind))


def apply_plan(model: nn.Module, plan: Plan, mesh: DeviceMesh) -> None:
    """Divide the model's layers in place along the 1-d mesh; each rank keeps its slices of the parameters."""
    for path, role in plan.items():
        parent_path, _, name = path.rpartition(".")
        layer = model.get_submodule(path)
        setattr(model.get_submodule(parent_path), name, _division(role, layer).divide(layer, mesh))


def divides(model: nn.Module, plan: Plan, ranks: int) -> bool:
    """Whether all channels divide by the ranks."""
    return _undivided(model, plan, ranks) is None


def check_plan(model: nn.Module, plan: Plan, ranks: int, *, name: str) -> None:
    """UserError when a layer's channels do not divide by the ranks."""
    if (found := _undivided(model, plan, ranks)) is not None:
        path, channels = found
        raise UserError(
            f"training.parallelism.tensor {ranks} does not divide the {channels} channels of layer {path} of "
            f"model {name}; choose a divisor of {channels}, or another model.width"
        )


def _undivided(model: nn.Module, plan: Plan, ranks: int) -> tuple[str, int] | None:
    """The first layer whose channels do not divide, and how many they are."""
    for path, role in plan.items():
        layer = model.get_submodule(path)
        channels = _division(role, layer).channels(layer)
        if channels is not None and channels % ranks:
            return path, channels
    return None
