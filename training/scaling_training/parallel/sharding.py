"""Slices of tensors as DTensors, and back.

A DTensor knows its whole shape and where its slices lie. So whoever needs a norm, a moving average or a checkpoint
of the whole gets it right without knowing how a layer was divided.
"""

from __future__ import annotations

from typing import TypeVar, overload

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

T = TypeVar("T", bound=torch.Tensor)


def shard(whole: T, mesh: DeviceMesh, dim: int) -> T:
    """This rank's slice along ``dim`` of a tensor that every rank of the 1-d mesh has whole, without communication.

    ``dim`` divides evenly. A parameter becomes a parameter, which wants a gradient when ``whole`` does.
    """
    ranks = mesh.size()
    assert whole.shape[dim] % ranks == 0, f"dimension {dim} of {tuple(whole.shape)} over {ranks} ranks"
    slice_ = whole.detach().chunk(ranks, dim)[mesh.get_local_rank()].clone(memory_format=torch.contiguous_format)
    divided = DTensor.from_local(slice_, mesh, [Shard(dim)], run_check=False)
    if isinstance(whole, nn.Parameter):
        return nn.Parameter(divided, requires_grad=whole.requires_grad)  # type: ignore[return-value]
    return divided  # type: ignore[return-value]


@overload
def local(tensor: torch.Tensor) -> torch.Tensor: ...
@overload
def local(tensor: None) -> None: ...
def local(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """What this rank holds of a tensor; gradients flow back to the DTensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
