"""Adaptive average pooling that adds up in the same order each time.

Torch's own has none on a GPU: its backward pass adds with atomics, so in deterministic mode torch refuses it, and with
it VGG and AlexNet. (Pooling down to one value is a mean, which is fine as it is.) Cell i of n along a side of length l
is the mean from floor(i l / n) up to ceil((i + 1) l / n). A mean over rows and columns is the mean over columns of
means over rows, so each side is pooled by itself: slices and means, whose gradients are added one after the other.
"""

from __future__ import annotations

import torch
from torch import nn


class SteadyPool(nn.AdaptiveAvgPool2d):
    """In the place of `nn.AdaptiveAvgPool2d`: the same but for rounding."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Images [..., height, width] to [..., *output_size]."""
        size = self.output_size
        rows, columns = (size, size) if size is None or isinstance(size, int) else size
        return _along(_along(input, -2, rows), -1, columns)


def steady_pooling(model: nn.Module) -> None:
    """Have the model pool in the same order each time; in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.AdaptiveAvgPool2d and child.output_size not in (1, (1, 1)):
                setattr(module, name, SteadyPool(child.output_size))


def _along(input: torch.Tensor, dim: int, size: int | None) -> torch.Tensor:
    length = input.shape[dim]
    if size is None or size == length:
        return input
    bounds = [(cell * length // size, -(-(cell + 1) * length // size)) for cell in range(size)]
    return torch.stack([input.narrow(dim, start, stop - start).mean(dim) for start, stop in bounds], dim)
