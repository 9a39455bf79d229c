"""small-cnn: three convolutions of 32, 64 and 128 channels, then a dense layer of 512.

Each convolution (3x3) is followed by batch norm, ReLU and a pooling that halves the image, so an image of
28x28 reaches the dense layer as 3x3 and one of 8x8 as 1x1. All channel counts scale with the width.
"""

from __future__ import annotations

from torch import nn

from scaling_api.spec import ModelSpec
from scaling_training.errors import UserError

Shape = tuple[int, int, int]  # channels, height, width

_CHANNELS = (32, 64, 128)
_DENSE = 512
_SMALLEST = 2 ** len(_CHANNELS)  # pixels a side, so that a pixel is left after all halvings


def build(spec: ModelSpec, input_shape: Shape, classes: int) -> nn.Module:
    """The model for images of this shape; UserError when they are too small."""
    channels, height, width = input_shape
    if min(height, width) < _SMALLEST:
        raise UserError(f"model small-cnn needs images of at least {_SMALLEST}x{_SMALLEST}; these are {height}x{width}")
    layers: list[nn.Module] = []
    for base in _CHANNELS:
        wide = scaled(base, spec.width)
        # Batch norm has its own offset, which makes the convolution's redundant.
        layers += [
            nn.Conv2d(channels, wide, 3, padding=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels, height, width = wide, height // 2, width // 2
    dense = scaled(_DENSE, spec.width)
    if spec.head == "pooled":
        layers.append(nn.AdaptiveAvgPool2d(1))
        height = width = 1
    layers += [nn.Flatten(), nn.Linear(channels * height * width, dense), nn.ReLU(), nn.Linear(dense, classes)]
    return nn.Sequential(*layers)


def scaled(channels: int, width: float) -> int:
    """A channel count times the width, at least 1."""
    return max(1, round(channels * width))
