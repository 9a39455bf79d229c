"""The blocks of a model: what it repeats, wherever that sits.

They are what FSDP gathers as a unit, what activation checkpointing computes again, and what the planner counts by. A
model's blocks are the modules of one class that stand beside one another in a container (Sequential, ModuleList,
ModuleDict), at any depth: a transformer's layers, the blocks in each stage of a Swin or ConvNeXt, inverted residuals.
Where a block is nothing but a row of blocks itself (a dense block, a stage that is a class of its own), these are
taken. What stands in a row with blocks, such as a stem or a downsampling between stages, is a block as well. What is
left, often a head, is the root's.

A block is gathered, and computed again, when its forward is called, so only what runs by its own forward is one. How a
model is built does not say that: its owner may call a method of a block, or what is in it. A model of the user's own is
therefore watched while it runs (`watching_blocks`), and what was passed by is never a block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Modules that were seen to be passed by. Kept beside the models, so that who asks for the blocks need not have run one.
_PASSED_BY: WeakSet[nn.Module] = WeakSet()


@contextmanager
def watching_blocks(model: nn.Module) -> Iterator[None]:
    """Notes which modules of the model run by their own forward, for `repeated_blocks` to choose among.

    Run the model in it as evaluation does and as training does, with the same weights and samples on every rank: all
    ranks must have the same blocks. A module is passed by when it never runs, or when something in it runs without it.
    """
    holders: dict[nn.Module, set[nn.Module]] = {}
    for module in model.modules():
        for inside in module.modules():
            holders.setdefault(inside, set()).add(module)
    running: list[nn.Module] = []
    ran: set[nn.Module] = set()
    passed_by: set[nn.Module] = set()

    def enter(module: nn.Module, _: Any) -> None:
        # What a compiler traces as a whole has no forward of its own left, and takes no such hook.
        if not torch.compiler.is_compiling() and module in holders:
            running.append(module)
            ran.add(module)
            passed_by.update(holders[module].difference(running))

    def leave(module: nn.Module, *_: Any) -> None:
        if not torch.compiler.is_compiling() and module in holders:
            running.pop()

    # Hooks on all modules alike: one on a module itself would keep torch from its fast paths in evaluation.
    hooks = (register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if model in ran:
        _PASSED_BY.difference_update(holders)
        _PASSED_BY.update(passed_by | (holders.keys() - ran))


def repeated_blocks(model: nn.Module) -> Sequence[nn.Module]:
    """Disjoint modules in the order of the model's, each of which runs by its own forward; empty for a single layer.

    Without any repetition they are the model's children, or what is in them where these have no forward. A block shares
    no parameter with anything outside of it, so that each can be sharded by itself.
    """
    search = _Search(model)
    blocks = search.rows(model) or search.named_one_by_one() or search.children(model)
    return _apart(blocks, model)


class _Search:
    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._layers: dict[nn.Module, int] = {}
        self._count_layers(model)
        # Classes of which several stand in one container; torch's own containers say nothing by their class.
        self._repeated = {
            kind
            for module in model.modules()
            if isinstance(module, _CONTAINERS)
            for kind, count in self._kinds(module).items()
            if count > 1 and kind not in _CONTAINERS
        }

    def rows(self, module: nn.Module) -> list[nn.Module]:
        """The blocks within a module that stand in containers."""
        in_row = isinstance(module, _CONTAINERS)
        children = self._beside(module)
        kinds = self._kinds(module) if in_row else Counter()
        found: list[list[nn.Module]] = []
        for child in children:
            inner = self.rows(child)
            known = type(child) in self._repeated and self._runs(child)
            if (known or (kinds[type(child)] > 1 and self._may_repeat(child))) and not self._covers(inner, child):
                inner = [child]
            found.append(inner)
        if in_row and any(found):
            found = [inner or [child] * self._runs(child) for inner, child in zip(found, children, strict=True)]
        return [block for inner in found for block in inner]

    def named_one_by_one(self) -> list[nn.Module]:
        """Where blocks are attributes: the parts of the first module that has two of one class."""
        for module in self._model.modules():
            if self._runs(module) and any(count > 1 for count in self._kinds(module).values()):
                return [child for child in module.children() if self._runs(child) and _has_parts(child)]
        return []

    def children(self, module: nn.Module) -> list[nn.Module]:
        """The children that have layers; what wraps a single module gives those of that one."""
        if isinstance(module, nn.MultiheadAttention):  # takes the weights of its projection, and never runs it
            return []
        parts = [child for child in module.children() if self._layers[child]]
        if len(parts) == 1 and _has_parts(parts[0]):
            return self.children(parts[0])
        return [block for part in parts for block in ([part] if self._runs(part) else self.children(part))]

    def _count_layers(self, module: nn.Module) -> int:
        """How many layers are in each module: a norm or a scale goes with the layer beside it."""
        if module not in self._layers:
            own = sum(map(_is_layers, module.parameters(recurse=False)))
            self._layers[module] = own + sum(self._count_layers(child) for child in module.children())
        return self._layers[module]

    def _kinds(self, module: nn.Module) -> Counter[type[nn.Module]]:
        return Counter(type(child) for child in self._beside(module) if self._may_repeat(child))

    def _beside(self, module: nn.Module) -> list[nn.Module]:
        """The children; in a container, what is in those that were passed by stands for them."""
        return _row(module) if isinstance(module, _CONTAINERS) else list(module.children())

    def _may_repeat(self, module: nn.Module) -> bool:
        """Whether it can be a block by its build: neither a layer nor one with its norm and activation."""
        return self._layers[module] > 1 and _has_parts(module) and self._runs(module)

    def _runs(self, module: nn.Module) -> bool:
        """Whether it has layers and runs by its forward; a ModuleList has none, its owner runs what is in it."""
        has_forward = type(module).forward is not nn.Module.forward
        return self._layers[module] > 0 and has_forward and module not in _PASSED_BY

    def _covers(self, blocks: Sequence[nn.Module], module: nn.Module) -> bool:
        return bool(blocks) and sum(self._layers[block] for block in blocks) == self._layers[module]


def _is_layers(parameter: nn.Parameter) -> bool:
    """Whether the parameter is a layer's, and no vector in whatever shape."""
    return parameter.dim() == 2 or sum(size > 1 for size in parameter.shape) > 1


def _row(container: nn.Module) -> list[nn.Module]:
    return [part for child in container.children() for part in (_row(child) if child in _PASSED_BY else [child])]


def _has_parts(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _apart(blocks: Sequence[nn.Module], model: nn.Module) -> list[nn.Module]:
    """Those blocks whose parameters nothing else holds, each once."""
    holders: dict[int, set[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), set()).add(module)
    shared = [modules for modules in holders.values() if len(modules) > 1]

    def alone(block: nn.Module) -> bool:
        inside = set(block.modules())
        return all(modules <= inside or not modules & inside for modules in shared)

    return [block for block in dict.fromkeys(blocks) if alone(block)]
