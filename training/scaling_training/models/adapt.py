"""Fitting a known architecture to a data set: the first convolution to its channels, the head to its classes."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn


def first_convolution(model: nn.Module) -> str:
    """The name of the layer that reads the image: the first convolution in the order of the modules."""
    return next(str(name) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))


def last_layer(model: nn.Module) -> str:
    """The name of the layer that gives the classes: the last one with weights of its own in a matrix or kernel."""
    return [str(name) for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]


def with_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """A first convolution's weights [out, in, height, width] for another number of input channels.

    The old channels are repeated in turn and scaled by old / new, so that an image whose channels are all alike
    gives what it gave; a single channel gets their sum. After timm's adapt_input_conv.
    """
    old = weight.shape[1]
    if channels == old:
        return weight
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, torch.arange(channels) % old] * (old / channels)


def adapt_channels(model: nn.Module, channels: int) -> None:
    """Make the first convolution one for images of so many channels, in place."""
    convolution = model.get_submodule(first_convolution(model))
    assert isinstance(convolution, nn.Conv2d)
    if convolution.in_channels == channels:
        return
    with torch.no_grad():
        convolution.weight = nn.Parameter(with_channels(convolution.weight, channels))
    convolution.in_channels = channels


def without_pooling(
    model: nn.Module, input_shape: tuple[int, int, int], *, pool: str, parts: tuple[str, ...]
) -> nn.Module:
    """The model with dense layers that see the whole feature map instead of its mean.

    Either ``pool`` names the pooling module, which is taken out; or the pooling is a function inside ``forward``,
    and ``parts`` names the modules before it and, last, the dense layers: they become a sequence. The weights
    keep their names. The first dense layer is made anew, as wide as the feature map needs.
    """
    if pool:
        setattr(model, pool, nn.Identity())
    else:
        *before, dense = parts
        named = [(name, getattr(model, name, nn.ReLU())) for name in before]
        model = nn.Sequential(OrderedDict([*named, ("flatten", nn.Flatten()), (dense, getattr(model, dense))]))
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    first = next(name for name in names if name.split(".")[0] in ("fc", "classifier"))
    above, _, last = first.rpartition(".")
    old = model.get_submodule(first)
    assert isinstance(old, nn.Linear)
    new = nn.Linear(_seen_by(model, old, input_shape), old.out_features, device=old.weight.device)
    setattr(model.get_submodule(above), last, new)
    return model


class _SeenError(Exception):
    """The model came to the layer that was asked about."""


def _seen_by(model: nn.Module, layer: nn.Linear, input_shape: tuple[int, int, int]) -> int:
    """The number of features that reach a layer for an image of this shape."""
    found = 0

    def look(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        nonlocal found
        found = args[0].shape[1]
        raise _SeenError

    hook = layer.register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *input_shape, device=layer.weight.device))
    except _SeenError:
        pass
    finally:
        hook.remove()
        model.train()
    return found
