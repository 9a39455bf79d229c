"""Collective operations that autograd can pass through, for layers whose channels are divided among processes.

The conjugate pairs of Megatron-LM (Shoeybi et al., arXiv:1909.08053, section 3): what is an identity in the forward
pass is an all-reduce in the backward pass, and the other way round. Every rank of the group must call them in the
same order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.autograd import Function
from torch.autograd.function import FunctionCtx


class _Enter(Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _summed(gradients[0], ctx.group), None


class _Leave(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, values: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        return _summed(values, group)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, dim: int, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.dim, ctx.rank, ctx.ranks = dim, dist.get_rank(group), dist.get_world_size(group)
        mine = values.contiguous()
        parts = [torch.empty_like(mine) for _ in range(ctx.ranks)]
        dist.all_gather(parts, mine, group=group)
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0].chunk(ctx.ranks, ctx.dim)[ctx.rank], None, None


def _summed(values: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    # A copy in the same memory format: a channels-last image stays one.
    total = values.clone(memory_format=torch.preserve_format)
    if not total.is_contiguous() and not total.is_contiguous(memory_format=torch.channels_last):
        total = total.contiguous()
    dist.all_reduce(total, group=group)
    return total


def enter_sharded(values: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The same values, on their way into a layer of which each rank holds some output channels.

    Each rank's layer yields a part of the gradient of the values; the backward pass adds them up.
    """
    entered: torch.Tensor = _Enter.apply(values, group)
    return entered


def leave_sharded(values: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The sum over the ranks, each of which computed its input channels' share of the same output."""
    left: torch.Tensor = _Leave.apply(values, group)
    return left


def gather_sharded(values: torch.Tensor, dim: int, group: dist.ProcessGroup) -> torch.Tensor:
    """All ranks' channels along ``dim``, in the order of the ranks; shares are equal.

    What follows is computed by every rank alike, so each keeps its own slice of the gradient.
    """
    gathered: torch.Tensor = _Gather.apply(values, dim, group)
    return gathered
