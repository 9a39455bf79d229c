"""mnist-cnn: one convolution of 32 channels (3x3), a pooling that halves the image, a dense layer of 128."""

from __future__ import annotations

from torch import nn

from scaling_api.spec import ModelSpec
from scaling_training.errors import UserError
from scaling_training.models.small_cnn import Shape, scaled

_SMALLEST = 4  # pixels a side: the convolution takes 2, the pooling half of the rest


def build(spec: ModelSpec, input_shape: Shape, classes: int) -> nn.Module:
    """The model for images of this shape; UserError when they are too small."""
    channels, height, width = input_shape
    if min(height, width) < _SMALLEST:
        raise UserError(f"model mnist-cnn needs images of at least {_SMALLEST}x{_SMALLEST}; these are {height}x{width}")
    wide, dense = scaled(32, spec.width), scaled(128, spec.width)
    pixels = ((height - 2) // 2) * ((width - 2) // 2)
    layers: list[nn.Module] = [nn.Conv2d(channels, wide, 3), nn.ReLU(), nn.MaxPool2d(2)]
    if spec.head == "pooled":
        layers.append(nn.AdaptiveAvgPool2d(1))
        pixels = 1
    layers += [nn.Flatten(), nn.Linear(wide * pixels, dense), nn.ReLU(), nn.Linear(dense, classes)]
    return nn.Sequential(*layers)
