"""Convolutions whose channels are divided along the tensor axis.

*Column*: each rank computes some output channels from the whole input. *Row*: each rank holds the input channels
that it computed before, and the outputs are added up. *Depthwise*: each channel meets itself alone, so a rank stays
among its own. A column, what is local per channel, and a row make one all-reduce forward and one backward. Linear
layers are divided likewise by torch's own ColwiseParallel and RowwiseParallel.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from scaling_training.parallel.collectives import enter_sharded, leave_sharded
from scaling_training.parallel.sharding import local, shard


class _ParallelConv2d(nn.Conv2d):
    """A convolution that takes over another one's parameters as slices along ``dim`` of the weight."""

    dim = 0
    group: dist.ProcessGroup

    def __init__(self, conv: nn.Conv2d, tensor: DeviceMesh) -> None:
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
        self.group = tensor.get_group()
        self.weight = shard(conv.weight, tensor, self.dim)
        if conv.bias is not None:
            self.bias = nn.Parameter(self._take_bias(conv.bias, tensor), requires_grad=conv.bias.requires_grad)

    def _take_bias(self, bias: torch.Tensor, tensor: DeviceMesh) -> torch.Tensor:
        return shard(bias, tensor, 0)


class ColumnConv2d(_ParallelConv2d):
    """[n, all channels, h, w] to [n, this rank's channels, h', w']."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The output channels of this rank."""
        made: torch.Tensor = self._conv_forward(enter_sharded(values, self.group), local(self.weight), local(self.bias))
        return made


class RowConv2d(_ParallelConv2d):
    """[n, this rank's channels, h, w] to [n, all channels, h', w'], the same on every rank."""

    dim = 1

    def _take_bias(self, bias: torch.Tensor, tensor: DeviceMesh) -> torch.Tensor:
        # It is added once, to the sum, and so every rank has all of it.
        return bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """All output channels."""
        total = leave_sharded(self._conv_forward(values, local(self.weight), None), self.group)
        return total if self.bias is None else total + self.bias.reshape(1, -1, 1, 1)


class DepthwiseConv2d(_ParallelConv2d):
    """[n, this rank's channels, h, w] to [n, this rank's channels, h', w']."""

    def __init__(self, conv: nn.Conv2d, tensor: DeviceMesh) -> None:
        super().__init__(conv, tensor)
        self.groups = conv.groups // tensor.size()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Each channel by its own kernel."""
        made: torch.Tensor = self._conv_forward(values, local(self.weight), local(self.bias))
        return made
