"""A shard of the parameter server: some of the model's tensors, with an optimizer of their own.

A push is in two phases. A worker first stages its gradient at every shard, then asks the coordinator, which alone
decides whether it counts and sends each shard the same commits in the same order. So shards need not talk to
one another to agree, a gradient is applied by all or by none, and a worker that dies half-way leaves nothing
behind but a staged gradient that nobody commits.

The optimizer is built from training.optimizer as for the whole model. A commit takes one step with the mean
gradient over the lease, at the rate that comes with it.

Buffers (batch norm's running statistics) are not trained but observed. A worker starts from the shard's, updates
them in its forward pass and sends them along; the shard moves by 1/workers of the way to those. With one worker
that is what a single process does; with more each worker's observations count alike, and because it is a
convex combination it is stable at any staleness.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scaling_api.spec import OptimizerSpec
from scaling_training.optim import build_optimizer
from scaling_training.update.layout import flatten, plain, unflatten
from scaling_training.update.messages import Commit, Part, ShardState, Vector
from scaling_training.update.samples import Worker


@dataclass(frozen=True, slots=True)
class _Staged:
    lease: int
    gradient: Vector
    buffers: Vector


class ParameterShard:
    """Empty until `load`."""

    def __init__(self, spec: OptimizerSpec) -> None:
        self._spec = spec
        self._part = Part((), ())
        self._parameters: dict[str, torch.nn.Parameter] = {}
        self._buffers: dict[str, torch.Tensor] = {}
        self._optimizer: torch.optim.Optimizer | None = None
        self._staged: dict[Worker, _Staged] = {}
        self.position = -1  # pushes applied; -1: nothing is loaded

    def load(self, state: ShardState) -> None:
        """Take this state; what was staged is dropped."""

        def tensors(names: tuple[str, ...], values: Vector) -> list[torch.Tensor]:
            flat = torch.from_numpy(values.copy())
            shapes = [torch.Size(state.shapes[name]) for name in names]
            pieces = torch.split(flat, [shape.numel() for shape in shapes])
            return [piece.view(shape).clone() for piece, shape in zip(pieces, shapes, strict=True)]

        part = state.part
        parameters = map(torch.nn.Parameter, tensors(part.parameters, state.parameters))
        self._part = part
        self._parameters = dict(zip(part.parameters, parameters, strict=True))
        self._buffers = dict(zip(part.buffers, tensors(part.buffers, state.buffers), strict=True))
        # torch knows no optimizer of nothing.
        self._optimizer = build_optimizer(self._spec, self._parameters.values()) if self._parameters else None
        for name, kept in state.optimizer.items():
            if kept:
                assert self._optimizer is not None
                self._optimizer.state[self._parameters[name]] = plain(kept)
        self._staged.clear()
        self.position = state.position

    def pull(self) -> tuple[Vector, Vector]:
        """Parameters and buffers as they are now; copies."""
        return flatten(list(self._parameters.values())), flatten(list(self._buffers.values()))

    def stage(self, worker: Worker, lease: int, gradient: Vector, buffers: Vector) -> None:
        """Keep a gradient until it is committed; another one of the same worker takes its place."""
        self._staged[worker] = _Staged(lease, gradient, buffers)

    def commit(self, commit: Commit) -> None:
        """Apply a staged gradient. All shards get the same commits in the same order."""
        assert commit.position == self.position, f"commit {commit.position} came at position {self.position}"
        staged = self._staged.pop(commit.worker)
        assert staged.lease == commit.lease
        for parameter in self._parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
        unflatten(staged.gradient, [parameter.grad for parameter in self._parameters.values()])  # type: ignore[misc]
        if self._optimizer is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = commit.rate
            self._optimizer.step()
        if self._buffers:
            ours = list(self._buffers.values())
            theirs = [torch.empty_like(buffer) for buffer in ours]
            unflatten(staged.buffers, theirs)
            torch._foreach_lerp_(ours, theirs, commit.buffer_share)
        self.position += 1

    def state(self) -> ShardState:
        """A copy of everything but what is staged."""
        kept = self._optimizer.state if self._optimizer is not None else {}
        optimizer = {name: plain(kept.get(parameter, {})) for name, parameter in self._parameters.items()}
        parameters, buffers = self.pull()
        tensors = {**self._parameters, **self._buffers}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        return ShardState(self.position, self._part, shapes, parameters, buffers, optimizer)
