"""Batch norm of a single value per channel.

The last batch of an epoch, a micro-batch, or what stands in for a missing sample may be one sample, and deep in a
network for small images a channel then is one number. It has no variance, so torch refuses it in training. Within
`single_values` it is normalised by the running statistics, as in an evaluation, and does not move them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def single_values(model: nn.Module) -> Iterator[None]:
    """For the forward and backward pass of one sample in training.

    A layer without running statistics has nothing else to go by and refuses a single value as before; one whose
    statistics cover several processes has more than its own.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    hooks = []
    for norm in norms:
        if getattr(norm, "group", None) is None:
            hooks += [norm.register_forward_pre_hook(_before), norm.register_forward_hook(_after, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _before(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    if norm.training and inputs[0].numel() == inputs[0].shape[1]:
        norm.training = False
        norm.had_single_value = True  # type: ignore[assignment]


def _after(norm: nn.Module, inputs: Any, output: Any) -> None:
    if norm.__dict__.pop("had_single_value", False):
        norm.training = True
