"""What this process holds of tensors that may be divided over several (DTensors), and their norms.

A plain tensor is whole on every process. A DTensor is divided along the axes of its mesh where its placement
is a shard, and alike along the others. So a norm over the full tensor is the local sum of squares, added up
along the axes of shards alone: adding along an axis of replicas would count each value several times.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The memory that this process holds of a tensor, outside of autograd."""
    held = tensor.detach()
    return held.to_local() if isinstance(held, DTensor) else held


def mesh_of(tensor: torch.Tensor) -> Hashable:
    """The mesh of a DTensor, None for a plain tensor: what tensors of one foreach or fused call must share."""
    return tensor.device_mesh if isinstance(tensor, DTensor) else None


@torch.no_grad()
def local_norms(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The L2 norm of what this process holds of each tensor: [len(tensors)], float32, float64 where one is."""
    if not tensors:
        return torch.zeros(0)
    parts = [local(tensor) for tensor in tensors]
    types = {part.dtype for part in parts}
    accurate = torch.float64 if torch.float64 in types else torch.float32
    device = parts[0].device
    # Halves are added up in single precision: their own range ends at 65,504.
    wide = None if types == {accurate} else accurate
    return torch.stack([norm.to(device, accurate) for norm in torch._foreach_norm(parts, 2, dtype=wide)])


@torch.no_grad()
def full_norms(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The L2 norm of each tensor, over all its shards: [len(tensors)], float32, float64 where one is.

    One all-reduce for each mesh axis with shards, however many tensors: every process of the mesh must call it
    with the same tensors in the same order. The result is equal on all of them. ValueError for a DTensor whose
    values are not summed up yet (placement Partial).
    """
    norms = local_norms(tensors)
    divided: dict[tuple[Hashable, tuple[int, ...]], list[int]] = {}
    for index, tensor in enumerate(tensors):
        if axes := _shard_axes(tensor):
            divided.setdefault((mesh_of(tensor), axes), []).append(index)
    for (_, axes), indices in divided.items():
        mesh = tensors[indices[0]].device_mesh  # type: ignore[attr-defined]
        # In double precision, so that squares neither overflow nor fall to 0.
        squares = norms[indices].double().square()
        for axis in axes:
            dist.all_reduce(squares, group=mesh.get_group(axis))
        norms[indices] = squares.sqrt().to(norms.dtype)
    return norms


def _shard_axes(tensor: torch.Tensor) -> tuple[int, ...]:
    if not isinstance(tensor, DTensor):
        return ()
    if any(placement.is_partial() for placement in tensor.placements):
        raise ValueError(f"a tensor with placements {tensor.placements} has no norm before its parts are summed up")
    # Not is_shard(): it denies the strided shards of FSDP over tensor parallelism.
    return tuple(axis for axis, placement in enumerate(tensor.placements) if not placement.is_replicate())
