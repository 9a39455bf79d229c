"""vit-tiny: a vision transformer (Dosovitskiy et al. 2021) for small images.

Norm before each part, a learned position per patch, no class token: the head reads the mean over the patches,
or all of them with ``head: flatten``. The patch is the smallest of at least 2x2 pixels that divides the image
into at most 64 patches: 2x2 for 8x8, 4x4 for 28x28 and 32x32.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from scaling_api.spec import ModelSpec
from scaling_training.errors import UserError
from scaling_training.models.small_cnn import Shape

_DEPTH = 6
_HEADS = 4
_HEAD_SIZE = 32
_MLP_RATIO = 4
_DROPOUT = 0.1
_MOST_PATCHES = 64
_FEWEST_PATCHES = 4


class Attention(nn.Module):
    """Self-attention with a Linear of its own for each of query, key, value and output.

    Its forward pass counts the heads by the width of what query, key and value give, so a process that holds
    some of the ``heads`` (query, key and value split by rows, output by columns) runs the same code.
    """

    def __init__(self, size: int, *, head_size: int) -> None:
        super().__init__()
        self.heads = size // head_size
        self.head_size = head_size
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.output = nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, patches, size] to the same."""
        query, key, value = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        joined: torch.Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return joined

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        samples, patches, _ = x.shape
        return x.reshape(samples, patches, -1, self.head_size).transpose(1, 2)


class Mlp(nn.Module):
    """Two dense layers with a GELU between them."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(size, hidden)
        self.down = nn.Linear(hidden, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, patches, size] to the same."""
        out: torch.Tensor = self.down(functional.gelu(self.up(x)))
        return out


class Block(nn.Module):
    """Attention, then the dense layers, each added to what came in."""

    def __init__(self, size: int, *, head_size: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(size)
        self.attention = Attention(size, head_size=head_size)
        self.attention_dropout = nn.Dropout(_DROPOUT)
        self.mlp_norm = nn.LayerNorm(size)
        self.mlp = Mlp(size, _MLP_RATIO * size)
        self.mlp_dropout = nn.Dropout(_DROPOUT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, patches, size] to the same."""
        x = x + self.attention_dropout(self.attention(self.attention_norm(x)))
        out: torch.Tensor = x + self.mlp_dropout(self.mlp(self.mlp_norm(x)))
        return out


class VisionTransformer(nn.Module):
    """Images [n, channels, height, width] to scores [n, classes].

    Names that parallelism may count on, for each i below ``len(blocks)``: ``blocks[i].attention.query``, ``.key``,
    ``.value`` (columns are heads of ``attention.head_size``, one after the other) and ``.output``;
    ``blocks[i].mlp.up`` and ``.down``. All are nn.Linear with bias. ``patches`` and ``positions`` come before the
    blocks, ``norm`` and ``head`` after them: `embed`, each block and `classify` are the stages of a pipeline.
    """

    def __init__(self, input_shape: Shape, classes: int, *, patch: int, heads: int, flatten: bool) -> None:
        super().__init__()
        channels, height, width = input_shape
        size = heads * _HEAD_SIZE
        patches = (height // patch) * (width // patch)
        self.flatten = flatten
        self.patches = nn.Conv2d(channels, size, patch, stride=patch)
        self.positions = nn.Parameter(torch.empty(1, patches, size))
        self.dropout = nn.Dropout(_DROPOUT)
        self.blocks = nn.ModuleList(Block(size, head_size=_HEAD_SIZE) for _ in range(_DEPTH))
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size * patches if flatten else size, classes)
        self._initialise()

    def _initialise(self) -> None:
        """As in the paper's code: normal of deviation 0.02, cut at 2, for what multiplies; 0 for what is added."""
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """The patches with their positions, [n, patches, size]."""
        embedded: torch.Tensor = self.dropout(self.patches(images).flatten(2).transpose(1, 2) + self.positions)
        return embedded

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """What the blocks gave to scores, [n, classes]."""
        x = self.norm(x)
        scores: torch.Tensor = self.head(x.flatten(1) if self.flatten else x.mean(dim=1))
        return scores

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores before the softmax, [n, classes]."""
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        return self.classify(x)


def build(spec: ModelSpec, input_shape: Shape, classes: int) -> nn.Module:
    """The model for images of this shape; the width scales the number of heads. UserError when no patch fits."""
    return VisionTransformer(
        input_shape,
        classes,
        patch=_patch(*input_shape[1:]),
        heads=max(1, round(_HEADS * spec.width)),
        flatten=spec.head == "flatten",
    )


def _patch(height: int, width: int) -> int:
    for patch in range(2, min(height, width) + 1):
        patches = (height // patch) * (width // patch)
        if height % patch == width % patch == 0 and _FEWEST_PATCHES <= patches <= _MOST_PATCHES:
            return patch
    raise UserError(
        f"model vit-tiny cuts images into {_FEWEST_PATCHES} to {_MOST_PATCHES} square patches, which {height}x{width} "
        "does not allow; choose another image size, such as 32x32"
    )
