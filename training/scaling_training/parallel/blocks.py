"""The blocks of a model: what it repeats, wherever that sits.

They are what FSDP gathers as a unit, what activation checkpointing computes again, and what the planner counts by. A
model's blocks are the modules of one class that stand beside one another in a container (Sequential, ModuleList,
ModuleDict), at any depth: a transformer's layers, the blocks in each stage of a Swin or ConvNeXt, inverted residuals.
Where a block is nothing but a row of blocks itself (a dense block, a stage that is a class of its own), these are
taken. What stands in a row with blocks, such as a stem or a downsampling between stages, is a block as well. What is
left, often a head, is the root's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


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
        children = list(module.children())
        in_row = isinstance(module, _CONTAINERS)
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
            if any(count > 1 for count in self._kinds(module).values()):
                return [child for child in module.children() if self._runs(child) and _has_parts(child)]
        return []

    def children(self, module: nn.Module) -> list[nn.Module]:
        """The children that have layers; what wraps a single module gives those of that one."""
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
        return Counter(type(child) for child in module.children() if self._may_repeat(child))

    def _may_repeat(self, module: nn.Module) -> bool:
        """Whether it can be a block by its build: neither a layer nor one with its norm and activation."""
        return self._layers[module] > 1 and _has_parts(module) and self._runs(module)

    def _runs(self, module: nn.Module) -> bool:
        """Whether it has layers and a forward; a ModuleList has none, its owner runs what is in it."""
        return self._layers[module] > 0 and type(module).forward is not nn.Module.forward

    def _covers(self, blocks: Sequence[nn.Module], module: nn.Module) -> bool:
        return bool(blocks) and sum(self._layers[block] for block in blocks) == self._layers[module]


def _is_layers(parameter: nn.Parameter) -> bool:
    """Whether the parameter is a layer's, and no vector in whatever shape."""
    return parameter.dim() == 2 or sum(size > 1 for size in parameter.shape) > 1


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
