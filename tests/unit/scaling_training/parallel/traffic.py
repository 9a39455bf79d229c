"""Counting what collectives send, as they are dispatched."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Which argument holds the whole, gathered size, and how often a ring sends it.
_RINGS = {"allreduce_": (0, 2), "_allgather_base_": (0, 1), "allgather_": (0, 1), "_reduce_scatter_base_": (1, 1)}


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes that a worker sends by ring algorithms, by size of the group."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sent: dict[str, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, name = func.name().partition("::")
        if namespace == "c10d" and name in _RINGS:
            at, times = _RINGS[name]
            group = next(
                arg for arg in args if isinstance(arg, torch.ScriptObject) and "ProcessGroup" in str(arg._type())
            )
            ranks = torch.distributed.ProcessGroup.unbox(group).size()
            whole = sum(leaf.nbytes for leaf in tree_leaves(args[at]) if isinstance(leaf, torch.Tensor))
            self.sent[name] = self.sent.get(name, 0.0) + times * (ranks - 1) / ranks * whole
        return func(*args, **(kwargs or {}))
