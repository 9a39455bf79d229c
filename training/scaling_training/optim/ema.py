"""The exponential moving average of a model's weights (Polyak and Juditsky 1992; corrected as in Kingma and Ba 2015).

After step t = 1, 2, …: a_t = a_{t-1} + (1 - d) / (1 - d^t) (w_t - a_{t-1}). That is the mean of w_1 .. w_t with
weights in proportion to d^(t-i): the weights of before the first step take no part, so there is no bias
towards them, and no warm-up of the decay is needed. For large t it is the usual d a + (1 - d) w.

Buffers of floating type (batch norm's running statistics) are averaged alike; others stay as the model has
them. A DTensor's average is a DTensor of the same placement, of which each process updates its own part: no
communication, and a checkpoint reshards it like the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from scaling_training.optim.tensors import local


class Ema:
    """The averages of one model. A checkpoint holds them alone: the correction follows from the steps taken."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise ValueError(f"an average's decay is between 0 and 1, not {decay}")
        self._model = model
        self._decay = decay
        # FSDP puts other tensors in the parameters' place while a layer computes; these are the lasting ones.
        self._live = {name: value.detach() for name, value in _averaged(model)}
        self._averages = {name: value.clone() for name, value in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are after ``step`` optimizer steps (the first is 1); one left out is none."""
        share = (1.0 - self._decay) / (1.0 - self._decay**step)
        torch._foreach_lerp_(_parts(self._averages), _parts(self._live), share)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The model with its averages in place of its weights, for evaluation or saving; put back afterwards.

        The tensors stay the same and only their contents change places, so whatever refers to them (an
        optimizer, DDP's buckets, FSDP's shards) stays right. What is done to them inside goes to the averages.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # FSDP keeps the gathered weights of the outermost layers after a forward pass; they would be used again.
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        live, averages = _parts(self._live), _parts(self._averages)
        kept = [tensor.clone() for tensor in live]
        torch._foreach_copy_(live, averages)
        torch._foreach_copy_(averages, kept)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averages by the name of parameter or buffer; they share memory with this object."""
        return dict(self._averages)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put saved averages in place; ValueError names what is missing or too many."""
        if differing := sorted(self._averages.keys() ^ state.keys()):
            raise ValueError(f"the saved averages are of another model: {differing[0]} is in only one of them")
        for name, average in self._averages.items():
            average.copy_(state[name])


def _averaged(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point())


def _parts(tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    return [local(tensor) for tensor in tensors.values()]
