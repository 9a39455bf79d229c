"""Update mode local: each process takes steps by itself, then the processes agree on the mean (Stich 2019).

Within a round each process takes optimizer steps on its own share of each global batch, with the gradient scaled as
if the shares' gradients were to be averaged (processes / samples of the global batch) but without averaging
them. At the end of a round, with theta_r the weights of process r and theta the weights of the round before:

    mean  = 1/R sum_r theta_r                      delta = theta - mean, the outer gradient
    v     = momentum * v + delta                   step  = delta + momentum * v (Nesterov), else v
    theta = theta - learningRate * step

which is DiLoCo's outer optimizer (Douillard et al. 2023); with its defaults, rate 1 and no momentum, theta is
the mean itself. Rounds of one step with plain or momentum SGD are then the steps of mode sync, because these rules
are linear in the gradient.

Averaged as well are floating-point buffers (batch norm's running statistics) and the inner optimizer's state
(Yu, Jin and Yang 2019 do so with momentum). That costs traffic, one or two times the weights once a round, and makes
all processes equal at the end of a round: what rank 0 saves there is the whole state, right for any number of
processes that go on from it. DiLoCo keeps the inner state apart instead; a checkpoint would have to hold each
process's, and a change of their number would have no meaning.

A round ends after every ``steps`` steps of an epoch and at the epoch's end: a function of the step alone, so a run
that was stopped and resumed has the rounds of one that was not. Validation falls on the end of a round by that;
a checkpoint or a stop that is due within a round waits for its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from scaling_api.update import OuterSpec, UpdateSpec


def ends_round(step_in_epoch: int, *, every: int, ends_epoch: bool) -> bool:
    """Whether weights are averaged after this step (0-based within its epoch)."""
    return ends_epoch or (step_in_epoch + 1) % every == 0


class Averager:
    """The averages of one run, over the processes of ``group`` (None: all), with plain tensors only.

    Weights must be equal on all processes when it is made, and after each load. A checkpoint is taken at the end of a
    round, where the weights themselves are what the next outer gradient is measured from; so `state_dict` holds
    the outer momentum alone. When it is loaded, the model has its weights already.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        spec: UpdateSpec,
        *,
        processes: int,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._processes = processes
        self._group = group
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._parameters = list(trained.values())
        self._outer = _Outer(trained, spec.outer) if spec.outer is not None else None

    @torch.no_grad()
    def average(self) -> None:
        """End a round: make all processes equal. Every process must call it at the same point."""
        _mean([*self._parameters, *self._buffers(), *self._inner_state()], self._processes, self._group)
        if self._outer is not None:
            self._outer.step()

    def state_dict(self) -> dict[str, Any]:
        """The outer momentum, the live tensors; call it at the end of a round."""
        return self._outer.state_dict() if self._outer is not None else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, and from the weights that the model has now."""
        if self._outer is not None:
            self._outer.load_state_dict(state)

    def _buffers(self) -> Iterator[torch.Tensor]:
        # Counters (batch norm's number of batches) are equal but where a rank had no sample; the first one's are kept.
        return (buffer for buffer in self._model.buffers() if buffer.is_floating_point())

    def _inner_state(self) -> Iterator[torch.Tensor]:
        for parameter in self._parameters:
            for value in self._optimizer.state.get(parameter, {}).values():
                # Step counters (one element) are equal everywhere.
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.is_floating_point():
                    yield value


class _Outer:
    """torch's SGD over the weights of the last round, whose gradient is how far the mean is from them."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], spec: OuterSpec) -> None:
        self._parameters = parameters
        self._anchors = {name: nn.Parameter(value.detach().clone()) for name, value in parameters.items()}
        self._sgd = torch.optim.SGD(
            self._anchors.values(), lr=spec.rate, momentum=spec.momentum, nesterov=spec.nesterov
        )
        if spec.momentum:
            # From 0, which gives what torch does when there is none; and a checkpoint always knows the shapes.
            for anchor in self._anchors.values():
                self._sgd.state[anchor] = {"momentum_buffer": torch.zeros_like(anchor, requires_grad=False)}

    def step(self) -> None:
        for name, anchor in self._anchors.items():
            anchor.grad = anchor.detach() - self._parameters[name]
        self._sgd.step()
        for name, anchor in self._anchors.items():
            self._parameters[name].copy_(anchor)
            anchor.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {
            name: self._sgd.state[anchor]["momentum_buffer"]
            for name, anchor in self._anchors.items()
            if anchor in self._sgd.state
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, anchor in self._anchors.items():
                anchor.copy_(self._parameters[name])
                if name in state:
                    self._sgd.state[anchor]["momentum_buffer"].copy_(state[name])


def _mean(tensors: Sequence[torch.Tensor], processes: int, group: dist.ProcessGroup | None) -> None:
    """Replace each tensor by its mean over the processes: one message for each type of number."""
    if processes == 1:
        return
    by_type: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    for alike in by_type.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in alike])
        dist.all_reduce(flat, group=group)
        flat /= processes
        offset = 0
        for tensor in alike:
            tensor.copy_(flat[offset : offset + tensor.numel()].view(tensor.shape))
            offset += tensor.numel()
