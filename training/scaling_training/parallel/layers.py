"""Convolutions and linear layers whose channels are divided along the tensor axis.

*Column*: each rank computes some output channels from the whole input. *Row*: each rank holds the input channels
that it computed before, and the outputs are added up. *Depthwise*: each channel meets itself alone, so a rank stays
among its own. A column, what is local per channel, and a row make one all-reduce forward and one backward.

Parameters are DTensors, activations are plain tensors. torch's ColwiseParallel and RowwiseParallel make DTensors of
activations as well, which costs a dispatch per operation: in small models many times the operation itself.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional

from scaling_training.parallel.collectives import enter_sharded, leave_sharded
from scaling_training.parallel.sharding import local, shard


def _take_columns(made: nn.Conv2d | nn.Linear, layer: nn.Conv2d | nn.Linear, tensor: DeviceMesh) -> None:
    """Give ``made`` this rank's output channels of ``layer``."""
    made.weight = shard(_parameter(layer.weight), tensor, 0)
    if layer.bias is not None:
        made.bias = shard(_parameter(layer.bias), tensor, 0)


def _take_rows(made: nn.Conv2d | nn.Linear, layer: nn.Conv2d | nn.Linear, tensor: DeviceMesh) -> None:
    """Give ``made`` this rank's input channels of ``layer``; of the bias, which is added once to the sum, all."""
    made.weight = shard(_parameter(layer.weight), tensor, 1)
    if layer.bias is not None:
        made.bias = _parameter(layer.bias)


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    assert isinstance(tensor, nn.Parameter)
    return tensor


class _ParallelConv2d(nn.Conv2d):
    """A convolution of the same settings as another, without memory of its own."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            device="meta",
        )

    def _convolve(self, values: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        made: torch.Tensor = self._conv_forward(values, local(self.weight), bias)
        return made


class ColumnConv2d(_ParallelConv2d):
    """[n, all channels, h, w] to [n, this rank's channels, h', w']."""

    def __init__(self, conv: nn.Conv2d, tensor: DeviceMesh) -> None:
        super().__init__(conv)
        self._group = tensor.get_group()
        _take_columns(self, conv, tensor)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The output channels of this rank."""
        return self._convolve(enter_sharded(values, self._group), local(self.bias))


class RowConv2d(_ParallelConv2d):
    """[n, this rank's channels, h, w] to [n, all channels, h', w'], the same on every rank."""

    def __init__(self, conv: nn.Conv2d, tensor: DeviceMesh) -> None:
        super().__init__(conv)
        self._group = tensor.get_group()
        _take_rows(self, conv, tensor)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """All output channels."""
        total = leave_sharded(self._convolve(values, None), self._group)
        return total if self.bias is None else total + self.bias.reshape(1, -1, 1, 1)


class DepthwiseConv2d(_ParallelConv2d):
    """[n, this rank's channels, h, w] to [n, this rank's channels, h', w']."""

    def __init__(self, conv: nn.Conv2d, tensor: DeviceMesh) -> None:
        super().__init__(conv)
        self.groups = conv.groups // tensor.size()
        _take_columns(self, conv, tensor)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Each channel by its own kernel."""
        return self._convolve(values, local(self.bias))


class ColumnLinear(nn.Linear):
    """[..., all features] to [..., this rank's features].

    ``group`` is None when the input was entered before: layers side by side share one all-reduce backward.
    """

    def __init__(self, linear: nn.Linear, tensor: DeviceMesh, *, group: dist.ProcessGroup | None) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self._group = group
        _take_columns(self, linear, tensor)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The output features of this rank."""
        entered = values if self._group is None else enter_sharded(values, self._group)
        return functional.linear(entered, local(self.weight), local(self.bias))


class RowLinear(nn.Linear):
    """[..., this rank's features] to [..., all features], the same on every rank."""

    def __init__(self, linear: nn.Linear, tensor: DeviceMesh) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self._group = tensor.get_group()
        _take_rows(self, linear, tensor)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """All output features."""
        total = leave_sharded(functional.linear(values, local(self.weight)), self._group)
        return total if self.bias is None else total + self.bias
