"""Dropout that is a function of the sample, so that it does not depend on batch, process or resume.

torch draws a mask from a generator that moves with everything drawn before. Here each element of the mask is a
hash of the sample's key (a function of seed, epoch and sample, see data), the layer's number and the element's
position: the splitmix64 generator (Steele, Lea and Flood 2014), started at the key times its increment and read at
the place layer * 2^32 + position. It is 64-bit integer arithmetic that wraps, equal on every device.

Who runs the model in training mode says whose masks to use:

    with keyed(task.model, batch.keys):
        output = model(*task.inputs(batch))  # and the backward pass, where activations are computed anew
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from scaling_training.errors import UserError

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST_FACTOR = 0xBF58476D1CE4E5B9 - 2**64
_SECOND_FACTOR = 0x94D049BB133111EB - 2**64
_LAYER_STRIDE = 2**32  # positions of a layer
_ATTRIBUTE = "dropout_keys"


class DropoutKeys:
    """The keys of the samples that the model sees now; all dropout layers of a model share one of these."""

    __slots__ = ("current", "layers")

    def __init__(self) -> None:
        self.current: torch.Tensor | None = None  # int64 [n]
        self.layers = 0


class KeyedDropout(nn.Module):
    """Sets a share p of the elements to 0 in training and scales the others by 1 / (1 - p).

    Inputs have the samples as their first dimension. ``dims`` is how many of the dimensions after it have masks
    of their own: all (None), 1 for whole channels, 0 for whole samples (stochastic depth).
    """

    def __init__(self, p: float, *, layer: int, keys: DropoutKeys, dims: int | None = None) -> None:
        super().__init__()
        self.p = p
        self.layer = layer
        self.dims = dims
        self.keys = keys

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape; ``x`` itself in evaluation mode."""
        if not self.training or self.p == 0:
            return x
        keys = self.keys.current
        if keys is None or len(keys) != x.shape[0]:
            had = "no keys" if keys is None else f"the keys of {len(keys)} samples"
            raise RuntimeError(f"dropout of {x.shape[0]} samples has {had}: run the model within dropout.keyed")
        masked = x.dim() - 1 if self.dims is None else self.dims
        shape = x.shape[1 : 1 + masked]
        kept = keep_mask(keys, layer=self.layer, count=math.prod(shape), p=self.p)
        kept = kept.reshape(x.shape[0], *shape, *(1,) * (x.dim() - 1 - masked))
        return x * (kept.to(x.dtype) * (0.0 if self.p == 1 else 1 / (1 - self.p)))

    def extra_repr(self) -> str:
        return f"p={self.p}, layer={self.layer}, dims={self.dims}"


def keep_mask(keys: torch.Tensor, *, layer: int, count: int, p: float) -> torch.Tensor:
    """Which elements stay: bool [n, count], each True with probability 1 - p. ``keys`` is int64 [n]."""
    place = torch.arange(1, count + 1, dtype=torch.int64, device=keys.device) + layer * _LAYER_STRIDE
    # The sum before the product, since torch's compiler keeps an arange times a constant as an exact number, too
    # large for it.
    mixed = (keys[:, None] + place[None, :]) * _GOLDEN
    mixed = (mixed ^ _shifted(mixed, 30)) * _FIRST_FACTOR
    mixed = (mixed ^ _shifted(mixed, 27)) * _SECOND_FACTOR
    mixed = mixed ^ _shifted(mixed, 31)
    return _shifted(mixed, 1) >= min(int(p * 2**63), 2**63 - 1)


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """A shift to the right that brings in zeros; torch's brings in the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


@contextmanager
def keyed(model: nn.Module, keys: torch.Tensor) -> Iterator[None]:
    """Within it the model's dropout is that of these samples, int64 [n] on the model's device."""
    shared: DropoutKeys | None = getattr(model, _ATTRIBUTE, None)
    if shared is None:
        yield
        return
    before, shared.current = shared.current, keys
    try:
        yield
    finally:
        shared.current = before


def replace_dropout(model: nn.Module, *, p: float | None = None, name: str = "the model") -> DropoutKeys:
    """Put a keyed layer in the place of every dropout and stochastic depth; the keys stay with the model.

    ``p`` overrides the probability of dropout, not of stochastic depth. Layers are numbered in the order of
    the model's modules, so a model that is later taken apart keeps its masks. UserError for what draws inside
    torch's own functions, where no key reaches, and for a ``p`` without any dropout.
    """
    keys = DropoutKeys()
    kinds = _kinds()
    made: dict[nn.Module, KeyedDropout] = {}
    with_p = 0
    for path, module in list(model.named_modules()):
        _refuse_hidden(module, f"{name}'s layer {path}")
        for child_name, child in list(module.named_children()):
            kind = next((kind for kind in kinds if isinstance(child, kind)), None)
            if kind is None:
                continue
            dims = kinds[kind](child)
            overridden = p is not None and dims != 0
            with_p += dims != 0
            if child not in made:
                made[child] = KeyedDropout(
                    p if overridden and p is not None else float(getattr(child, "p", 0.0)),
                    layer=keys.layers,
                    keys=keys,
                    dims=dims,
                ).train(child.training)
                keys.layers += 1
            setattr(module, child_name, made[child])
    if p is not None and not with_p:
        raise UserError(f"model.dropout {p:g}: {name} has no dropout layer; remove the field")
    setattr(model, _ATTRIBUTE, keys)
    return keys


def _kinds() -> dict[type[nn.Module], Callable[[Any], int | None]]:
    """Which layers are replaced, and in which dimensions after the first their masks vary."""
    kinds: dict[type[nn.Module], Callable[[Any], int | None]] = {
        nn.Dropout: lambda layer: None,
        nn.Dropout1d: lambda layer: 1,
        nn.Dropout2d: lambda layer: 1,
        nn.Dropout3d: lambda layer: 1,
    }
    # A model can hold torchvision's layer only if somebody imported it; importing it here would cost seconds.
    ops = sys.modules.get("torchvision.ops")
    if ops is not None:
        kinds[ops.StochasticDepth] = lambda layer: 0
    return kinds


def _refuse_hidden(module: nn.Module, name: str) -> None:
    hidden = (isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) and module.dropout > 0) or isinstance(
        module, (nn.AlphaDropout, nn.FeatureAlphaDropout)
    )
    if hidden:
        raise UserError(
            f"{name} ({type(module).__name__}) draws its dropout inside torch, which a resume could not repeat; set "
            "its dropout to 0 and use nn.Dropout layers"
        )
