"""What the planner needs to know of a model, measured by one forward pass.

Counts are in elements per sample; bytes and seconds come later.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from scaling_training.errors import UserError
from scaling_training.parallel.blocks import repeated_blocks
from scaling_training.parallel.plans import tensor_plan
from scaling_training.parallel.roles import Plan, Role, divides

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model in numbers. What a tensor axis cannot divide has ``tensor_sizes`` empty."""

    units: tuple[tuple[Shape, ...], ...]  # shapes of the parameters: of the root (none, perhaps), then of each block
    trained: int  # parameters that are not frozen
    divided: int  # parameters in layers that the tensor axis divides
    root_divided: int  # of them, the root's
    element: int  # bytes
    activations: float  # elements per sample kept for the backward pass, at its peak
    divided_activations: float  # of them, those that the tensor axis divides
    flops: float  # per sample, forward
    divided_flops: float
    summed_forward: float  # elements per sample that the tensor axis adds up in the forward pass
    summed_backward: float
    gathered: float  # elements per sample that it gathers
    tensor_calls: int  # collectives per micro-batch on the tensor axis
    tensor_sizes: frozenset[int]  # sizes of the tensor axis that divide the model

    @property
    def parameters(self) -> int:
        """Parameters in all."""
        return sum(_size(shape) for unit in self.units for shape in unit)

    @property
    def gathered_units(self) -> int:
        """What FSDP gathers, one after the other."""
        return sum(map(bool, self.units))

    def root_left(self, tensor: int) -> float:
        """The root's parameters that a tensor axis of this size leaves to a worker."""
        return sum(map(_size, self.units[0])) - self.root_divided * (1 - 1 / tensor)

    @property
    def trained_share(self) -> float:
        """The share of the parameters that have gradients."""
        return self.trained / self.parameters

    @property
    def largest_unit(self) -> int:
        """Parameters of the largest unit that FSDP gathers at once."""
        return max(sum(_size(shape) for shape in unit) for unit in self.units)

    def padded(self, shards: int) -> int:
        """Parameters when each one's first dimension is filled up to a multiple of the shards, as FSDP2 does."""
        total = 0
        for unit in self.units:
            for first, *rest in (shape or (1,) for shape in unit):
                total += -(-first // shards) * shards * _size(tuple(rest))
        return total


def facts_of(
    model: nn.Module, forward: Callable[[], object], *, samples: int, largest_tensor: int, recomputed: bool = False
) -> ModelFacts:
    """The facts of a model; ``forward`` runs it in training mode on so many samples.

    ``recomputed``: it will compute its blocks' activations again (see `recompute`), which `forward` does not yet.
    """
    sizes = frozenset(size for size in range(2, largest_tensor + 1) if _can_divide(model, size))
    plan = tensor_plan(model, min(sizes), name="") if sizes else {}
    crossing = _Crossing()
    keeping = _Keeping(model)
    with crossing.watching(model, plan), FlopCounterMode(display=False) as flops, keeping.watching():
        forward()
    kept = keeping.with_blocks_recomputed() if recomputed else keeping.sizes
    by_module = flops.get_flop_counts()
    root = type(model).__name__
    in_plan = {path for path, role in plan.items() if role not in (Role.ENTER, Role.GATHER)}
    divided = {path: _divided(model.get_submodule(path), plan[path]) for path in in_plan}
    in_blocks = {module for block in repeated_blocks(model) for module in block.modules()}
    divided_flops = sum(sum(by_module.get(f"{root}.{path}", {}).values()) for path in in_plan)
    return ModelFacts(
        units=_units(model),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        divided=sum(divided.values()),
        root_divided=sum(divided[path] for path in in_plan if model.get_submodule(path) not in in_blocks),
        element=next(model.parameters()).element_size(),
        activations=sum(kept.values()) / samples,
        divided_activations=sum(kept.get(where, 0) for where in crossing.divided) / samples,
        flops=flops.get_total_flops() / samples,
        divided_flops=divided_flops / samples,
        summed_forward=crossing.forward / samples,
        summed_backward=crossing.backward / samples,
        gathered=crossing.gathered / samples,
        tensor_calls=crossing.calls,
        tensor_sizes=sizes,
    )


def _divided(layer: nn.Module, role: Role) -> int:
    # Every rank has the bias of a row.
    return sum(p.numel() for p in layer.parameters() if role is not Role.ROW or p.dim() > 1)


def _size(shape: Shape) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def _units(model: nn.Module) -> tuple[tuple[Shape, ...], ...]:
    blocks = [list(block.parameters()) for block in repeated_blocks(model)]
    held = {id(parameter) for block in blocks for parameter in block}
    root = [p for p in model.parameters() if id(p) not in held]
    return tuple(tuple(tuple(p.shape) for p in unit) for unit in (root, *blocks))


def _can_divide(model: nn.Module, ranks: int) -> bool:
    try:
        return divides(model, tensor_plan(model, ranks, name=""), ranks)
    except UserError:
        return False


class _Crossing:
    """Elements that cross the tensor axis, counted as the layers with roles see them pass."""

    def __init__(self) -> None:
        self.forward = self.backward = self.gathered = self.calls = 0
        self.divided: set[int] = set()  # the memory of what each rank has a slice of

    @contextmanager
    def watching(self, model: nn.Module, plan: Plan) -> Iterator[None]:
        hooks = []
        for path, role in plan.items():
            hooks.append(model.get_submodule(path).register_forward_hook(self._counter(role)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _counter(self, role: Role) -> Any:
        def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            # What does not want a gradient, such as the images, has no backward pass to add up.
            backward = inputs[0].numel() if inputs[0].requires_grad else 0
            match role:
                case Role.COLUMN | Role.ENTER:
                    self.backward += backward
                    self.calls += bool(backward)
                case Role.ROW:
                    self.forward += output.numel()
                    self.calls += 1
                case Role.GATHER:
                    self.gathered += inputs[0].numel()
                    self.calls += 1
            if role in (Role.COLUMN, Role.INNER, Role.LOCAL):
                self.divided.add(output.untyped_storage().data_ptr())
            if role in (Role.ROW, Role.LOCAL):
                self.divided.add(inputs[0].untyped_storage().data_ptr())

        return count


class _Keeping:
    """The elements of each tensor that autograd keeps, once for each memory; parameters are none of them."""

    def __init__(self, model: nn.Module) -> None:
        self.sizes: dict[int, int] = {}
        self._own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        self._blocks = repeated_blocks(model)
        self._outside: set[int] = set()
        self._inside: list[set[int]] = [set() for _ in self._blocks]
        self._entering: dict[
            int, torch.Tensor
        ] = {}  # what goes into blocks; kept alive, so that no memory counts twice
        self._within: list[set[int]] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """For one forward pass in training mode."""
        hooks = []
        for block, inside in zip(self._blocks, self._inside, strict=True):
            hooks.append(block.register_forward_pre_hook(functools.partial(self._enter, inside)))
            hooks.append(block.register_forward_hook(self._leave, always_call=True))
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def with_blocks_recomputed(self) -> dict[int, int]:
        """What is kept when each block keeps its inputs alone and, in its turn, makes the rest again: the peak."""
        entering = {where: tensor.numel() for where, tensor in self._entering.items()}
        lasting = {where: self.sizes[where] for where in self._outside} | entering
        turns = [{where: self.sizes[where] for where in inside - lasting.keys()} for inside in self._inside]
        return lasting | max(turns, key=lambda turn: sum(turn.values()), default={})

    def _enter(self, inside: set[int], block: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._within.append(inside)
        for tensor in tree_leaves(inputs):
            if isinstance(tensor, torch.Tensor):
                self._entering[tensor.untyped_storage().data_ptr()] = tensor.detach()

    def _leave(self, *_: Any) -> None:
        self._within.pop()

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        where = tensor.untyped_storage().data_ptr()
        if where not in self._own:
            self.sizes[where] = max(self.sizes.get(where, 0), tensor.numel())
            (self._within[-1] if self._within else self._outside).add(where)
        return tensor
