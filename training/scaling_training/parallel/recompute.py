"""Activation checkpointing: computing a block's activations again instead of keeping them (Chen et al. 2016).

Each block (see `blocks`) keeps only its input; the backward pass runs it a second time. Memory falls from that of all
layers to that of the blocks' inputs and one block, for a third more computation. What the second run gives is what the
first gave: dropout is a function of the sample (in a pipeline others are under way by then, so their keys are kept),
and batch norm's running statistics, which would move twice, are held still.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from scaling_training.models.dropout import DropoutKeys, KeyedDropout
from scaling_training.parallel.blocks import repeated_blocks


def recompute_blocks(model: nn.Module) -> None:
    """Have each block of the model compute its activations again in the backward pass; in place.

    Names of modules and parameters stay as they are. A model of one block, or a plain chain of layers, gains nothing
    by it.
    """
    for block in _recomputed(model):
        block.forward = functools.partial(_forward, block, block.forward)


@contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """`recompute_blocks` for a while, to measure what it takes."""
    blocks = _recomputed(model)
    before = [block.__dict__.get("forward") for block in blocks]
    recompute_blocks(model)
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


def _recomputed(model: nn.Module) -> list[nn.Module]:
    """The blocks that are more than a layer: a single one keeps its input alone as it is."""
    return [block for block in repeated_blocks(model) if next(block.children(), None) is not None]


def _forward(block: nn.Module, forward: Any, *inputs: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled() or not block.training:
        return forward(*inputs, **named)
    # Whoever owns a list that goes in may add to it before the second run, as a dense block does.
    inputs, named = tree_map(_same, (inputs, named))
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=lambda: _contexts(block), **named)


def _same(value: Any) -> Any:
    return value


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """What the first run happens in, and what the second."""
    keys = next((module.keys for module in block.modules() if isinstance(module, KeyedDropout)), None)
    return nullcontext(), _held(block, keys, keys.current if keys is not None else None)


@contextmanager
def _held(block: nn.Module, keys: DropoutKeys | None, current: torch.Tensor | None) -> Iterator[None]:
    """The samples are those of the first run; running statistics stay as they are."""
    others = keys.current if keys is not None else None
    if keys is not None:
        keys.current = current
    try:
        with _statistics_held(block):
            yield
    finally:
        if keys is not None:
            keys.current = others


@contextmanager
def _statistics_held(block: nn.Module) -> Iterator[None]:
    norms = [module for module in block.modules() if getattr(module, "running_mean", None) is not None]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # A share of 0 leaves the statistics as they are, to the last bit. The count is put back.
        norm.momentum = 0.0  # type: ignore[assignment]
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()  # type: ignore[operator]
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
