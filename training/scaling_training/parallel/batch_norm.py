"""Batch norm over divided batches and divided channels.

*Sync* normalises by the statistics of all batch ranks' samples, as one process with the whole batch would. Each rank
tells the others its count, mean and sum of squared deviations per channel; they are combined by the formula of Chan,
Golub and LeVeque (1979, "Updating formulae and a pairwise algorithm for computing sample variances"), which stays
exact where a difference of large sums would not. So the ranks' counts may differ, and a rank whose sample only
stands in for a missing one (`standing_in`) is left out. The backward pass adds up the two sums per channel that
the gradient needs. It uses all_gather and all_reduce alone, and so runs on gloo as on NCCL; torch.nn.SyncBatchNorm
needs a GPU.

*Channels* of a layer between a column- and a row-parallel convolution are normalised where they are: weight, bias and
running statistics are DTensors sharded along the tensor axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import Function
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from scaling_training.parallel.sharding import local, shard


class ParallelBatchNorm(_BatchNorm):
    """Batch norm whose statistics cover a group of processes, whose channels may be a slice, or both."""

    counts = True  # whether this rank's samples take part in the statistics

    @classmethod
    def of(
        cls, norm: _BatchNorm, *, group: dist.ProcessGroup | None = None, tensor: DeviceMesh | None = None
    ) -> ParallelBatchNorm:
        """The layer that replaces ``norm`` and takes over its parameters and buffers.

        ``group``: whose samples the statistics cover; None for this process's alone. ``tensor``: the mesh along which
        the channels are divided; None when each rank has them all.
        """
        layer = cls(
            norm.num_features,
            norm.eps,
            norm.momentum,
            norm.affine,
            norm.track_running_stats,
            device=torch.device("meta"),
        )
        layer.group = group
        for name, parameter in norm.named_parameters(recurse=False):
            setattr(layer, name, parameter if tensor is None else shard(parameter, tensor, 0))
        for name, buffer in norm.named_buffers(recurse=False):
            divided = tensor is not None and buffer.dim() > 0
            setattr(layer, name, shard(buffer, tensor, 0) if divided and tensor is not None else buffer)
        return layer.train(norm.training)

    group: dist.ProcessGroup | None = None

    def _check_input_dim(self, values: torch.Tensor) -> None:
        if values.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions (samples, channels), got {values.dim()}")

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalise [samples, channels, ...]; in training also move the running statistics."""
        self._check_input_dim(values)
        weight, bias = local(self.weight), local(self.bias)
        mean, var = local(self.running_mean), local(self.running_var)
        if not self.training and mean is not None:
            return functional.batch_norm(values, mean, var, weight, bias, False, 0.0, self.eps)
        momentum = self._next_momentum()
        if self.group is None:
            return functional.batch_norm(values, mean, var, weight, bias, True, momentum, self.eps)
        normalised: torch.Tensor
        normalised, all_mean, all_var, count = _SyncNorm.apply(values, weight, bias, self.eps, self.group, self.counts)
        if mean is not None and var is not None:
            with torch.no_grad():
                unbiased = all_var * (count / (count - 1).clamp(min=1))
                mean.lerp_(all_mean.to(mean.dtype), momentum)
                var.lerp_(unbiased.to(var.dtype), momentum)
        return normalised

    def _next_momentum(self) -> float:
        """The weight of this batch in the running statistics; without momentum they are plain means."""
        if self.num_batches_tracked is None or not self.training:
            return self.momentum or 0.0
        self.num_batches_tracked.add_(1)
        return self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)


class _SyncNorm(Function):
    """Returns the normalised values, then mean, biased variance and count over the group (which carry no gradient)."""

    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
        group: dist.ProcessGroup,
        counts: bool,
    ) -> tuple[torch.Tensor, ...]:
        # Half precision holds neither sums nor counts.
        wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
        dims = [dim for dim in range(wide.dim()) if dim != 1]
        local_var, local_mean = torch.var_mean(wide, dims, correction=0)
        local_count = wide.new_tensor([float(wide.numel() // wide.shape[1]) if counts else 0.0])
        mine = torch.cat((local_mean, local_var, local_count))
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, mine, group=group)
        means, variances, per_rank = torch.stack(parts).tensor_split((wide.shape[1], 2 * wide.shape[1]), dim=1)
        count = per_rank.sum()
        mean = (means * per_rank).sum(0) / count
        var = ((variances + (means - mean).square()) * per_rank).sum(0) / count
        inverse = torch.rsqrt(var + eps)
        scale = inverse if weight is None else inverse * weight
        offset = -mean * scale if bias is None else bias - mean * scale
        normalised = torch.addcmul(_along(offset, wide), wide, _along(scale, wide)).to(values.dtype)
        ctx.save_for_backward(values, weight, mean, inverse, count)
        ctx.group, ctx.has_bias, ctx.counts = group, bias is not None, counts
        ctx.mark_non_differentiable(mean, var, count)
        return normalised, mean, var, count

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, weight, mean, inverse, count = ctx.saved_tensors
        wide = gradients[0].to(mean.dtype)
        dims = [dim for dim in range(wide.dim()) if dim != 1]
        deviation = values.to(mean.dtype) - _along(mean, wide)
        # Of the weight and the bias each rank has its own samples' gradient, as of any other parameter.
        own_bias = wide.sum(dims)
        own_product = (wide * deviation).sum(dims)
        sums = torch.cat((own_bias, own_product))
        dist.all_reduce(sums, group=ctx.group)
        mean_gradient, mean_product = (sums / count).chunk(2)
        scale = inverse if weight is None else inverse * weight
        if ctx.counts:
            slope = -mean_product * inverse.square() * scale
            result = torch.addcmul(_along(-mean_gradient * scale, wide), wide, _along(scale, wide))
            result = result.addcmul_(deviation, _along(slope, wide))
        else:
            # Through the statistics, which its values did not enter, nothing comes back to them.
            result = wide * _along(scale, wide)
        return (
            result.to(values.dtype),
            own_product * inverse if weight is not None else None,
            own_bias if ctx.has_bias else None,
            *(None, None, None),
        )


def _along(channels: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """[channels] shaped so that it broadcasts over [samples, channels, ...]."""
    return channels.reshape(1, -1, *[1] * (values.dim() - 2))


def synchronise_batch_norm(model: nn.Module, group: dist.ProcessGroup) -> None:
    """Make every batch norm of the model cover the batch ranks of ``group``, those with divided channels included."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, ParallelBatchNorm):
                child.group = group
            elif isinstance(child, _BatchNorm):
                setattr(parent, name, ParallelBatchNorm.of(child, group=group))


@contextmanager
def standing_in(model: nn.Module) -> Iterator[None]:
    """For the passes of samples that count for nothing: they leave no trace in the model's statistics.

    Synchronised ones move, as on all ranks, without these samples. All else that a forward pass moves in buffers
    (running statistics of this rank's own samples, say) is put back.
    """
    covering = [norm for norm in model.modules() if isinstance(norm, ParallelBatchNorm) and norm.group is not None]
    shared = {id(buffer) for norm in covering for buffer in norm.buffers(recurse=False)}
    own = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if id(buffer) not in shared
    ]
    for norm in covering:
        norm.counts = False
    try:
        yield
    finally:
        for norm in covering:
            norm.counts = True
        with torch.no_grad():
            for module, name, buffer, before in own:
                # The module may have put another tensor in its place.
                setattr(module, name, buffer.copy_(before))
