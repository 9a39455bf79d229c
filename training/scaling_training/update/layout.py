"""How a model's tensors are divided among shards, and how they travel.

A shard holds a contiguous run of the trainable parameters, whole tensors only: so the optimizer of a shard treats
each tensor as one over the whole model would, also where a rule looks at a tensor's norm (LARS, LAMB) or groups
parameters by name. Shards are as equal in size as whole tensors allow. What travels is one flat vector for each
shard. Floating-point buffers (batch norm's running statistics) are in the first shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from scaling_training.update.messages import Part, ShardState, Vector


def divide(model: nn.Module, shards: int) -> list[Part]:
    """So many parts that cover the model's trainable parameters and buffers; with few tensors some are empty."""
    sizes = {name: value.numel() for name, value in model.named_parameters() if value.requires_grad}
    buffers = tuple(name for name, value in model.named_buffers() if value.is_floating_point())
    total, passed = sum(sizes.values()), 0
    names: list[list[str]] = [[] for _ in range(shards)]
    for name, size in sizes.items():
        # By the middle of the tensor on the line of all elements.
        names[min(shards - 1, int((passed + size / 2) * shards / total))].append(name)
        passed += size
    return [Part(tuple(part), buffers if index == 0 else ()) for index, part in enumerate(names)]


def flatten(tensors: Sequence[torch.Tensor]) -> Vector:
    """One vector, a copy; empty for no tensors."""
    if not tensors:
        return np.empty(0, dtype=np.float32)
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).cpu().numpy()


@torch.no_grad()
def unflatten(vector: Vector, tensors: Sequence[torch.Tensor]) -> None:
    """The inverse of `flatten`: write the vector, which may be read-only, into the tensors."""
    offset = 0
    for tensor in tensors:
        values = vector[offset : offset + tensor.numel()].reshape(tensor.shape)
        if tensor.device.type == "cpu":
            # By numpy, which reads shared memory as it is; torch takes only what it might write to.
            np.copyto(tensor.detach().numpy(), values)
        else:
            tensor.copy_(torch.from_numpy(values.copy()))
        offset += tensor.numel()
    assert offset == len(vector)


def plain(kept: Mapping[str, Any]) -> dict[str, Any]:
    """What an optimizer keeps for a parameter, as anybody can hold it: copies on the CPU, with no graph."""
    # Contiguous, as the parameters of a shard are: fused kernels take both as they lie in memory.
    return {
        key: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        if isinstance(value, torch.Tensor)
        else value
        for key, value in kept.items()
    }


class PartView:
    """The tensors of a part within a worker's model."""

    def __init__(self, model: nn.Module, part: Part) -> None:
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        self.parameters = [parameters[name] for name in part.parameters]
        self.buffers = [buffers[name] for name in part.buffers]

    def load(self, parameters: Vector, buffers: Vector) -> None:
        """Put the shard's values into the model."""
        unflatten(parameters, self.parameters)
        unflatten(buffers, self.buffers)

    def gradients(self) -> Vector:
        """The gradients as one vector; 0 for a parameter that has none."""
        return flatten([torch.zeros_like(value) if value.grad is None else value.grad for value in self.parameters])

    def buffer_values(self) -> Vector:
        """The buffers as one vector."""
        return flatten(self.buffers)


def shard_states(
    model: nn.Module, optimizer: torch.optim.Optimizer, parts: Sequence[Part], *, position: int
) -> list[ShardState]:
    """What the shards have to load to be where model and optimizer are."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    states = []
    for part in parts:
        view = PartView(model, part)
        states.append(
            ShardState(
                position=position,
                part=part,
                shapes={name: tuple(tensors[name].shape) for name in (*part.parameters, *part.buffers)},
                parameters=flatten(view.parameters),
                buffers=flatten(view.buffers),
                optimizer={name: plain(optimizer.state.get(tensors[name], {})) for name in part.parameters},
            )
        )
    return states


def adopt(states: Iterable[ShardState], model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """The inverse of `shard_states`: put the shards' states into the model, and into the optimizer if one is given."""
    parameters = dict(model.named_parameters())
    for state in states:
        PartView(model, state.part).load(state.parameters, state.buffers)
        if optimizer is not None:
            for name, kept in state.optimizer.items():
                if kept:
                    optimizer.state[parameters[name]] = dict(kept)
