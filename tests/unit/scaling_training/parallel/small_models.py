"""Models small enough that many meshes can be compared in a few seconds, and their batches."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from scaling_api.spec import ModelSpec
from scaling_training.data.batches import Batch
from scaling_training.models.small_cnn import build
from scaling_training.models.task import ClassificationTask

CLASSES = 6


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        parts = [
            layer(tokens).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        attended: torch.Tensor = self.output(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        return attended


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        lowered: torch.Tensor = self.down(functional.gelu(self.up(tokens)))
        return lowered


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before_attention, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.before_mlp, self.mlp = nn.LayerNorm(width), Mlp(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attention(self.before_attention(tokens))
        added: torch.Tensor = tokens + self.mlp(self.before_mlp(tokens))
        return added


class Transformer(nn.Module):
    """Patches of 4x4 as tokens, blocks, and the mean over tokens for the head."""

    def __init__(self, width: int = 8, heads: int = 4, blocks: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        classes: torch.Tensor = self.head(self.norm(tokens).mean(1))
        return classes


def _small_cnn() -> nn.Module:
    return build(ModelSpec(name="small-cnn", width=0.125), (1, 8, 8), CLASSES)


def _mnist_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 3 * 3, 16),
        nn.ReLU(),
        nn.Linear(16, CLASSES),
    )


def _mobilenet() -> nn.Module:
    from torchvision.models import MobileNetV2

    # The shape of the network with fewer blocks; t, c, n, s as in the paper's table.
    settings = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]]
    model: nn.Module = MobileNetV2(CLASSES, width_mult=0.25, inverted_residual_setting=settings, dropout=0.0)
    stem = model.get_submodule("features.0")
    assert isinstance(stem, nn.Sequential)
    assert isinstance(stem[0], nn.Conv2d)
    stem[0] = nn.Conv2d(1, stem[0].out_channels, 3, 2, 1, bias=False)
    return model


BUILDERS = {
    "small-cnn": _small_cnn,
    "mnist-cnn": _mnist_cnn,
    "mobilenet": _mobilenet,
    "transformer": Transformer,
}
SIDES = {"small-cnn": 8, "mnist-cnn": 8, "mobilenet": 16, "transformer": 8}


def a_task(name: str, dtype: torch.dtype = torch.float64) -> ClassificationTask:
    """The task of a small model, with the same weights at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return ClassificationTask(BUILDERS[name]().to(dtype).train(), CLASSES)


def a_batch(name: str, samples: int, step: int, dtype: torch.dtype = torch.float64) -> Batch:
    """The step's global batch."""
    generator = torch.Generator().manual_seed(100 + step)
    side = SIDES[name]
    images = torch.randn(samples, 1, side, side, generator=generator, dtype=torch.float64).to(dtype)
    return Batch(images, torch.randint(CLASSES, (samples,), generator=generator), torch.arange(samples))
