"""LARS, layer-wise adaptive rate scaling (You, Gitman and Ginsburg 2017, algorithm 1).

For each parameter tensor w with gradient g, rate r, momentum m, decay b and trust coefficient e:

    ratio = e ||w|| / (||g|| + b ||w||)        (1 when a norm is 0)
    v <- m v + r ratio (g + b w)
    w <- w - v

Norms are over the full tensor, also when it is a DTensor. A group with ``adapt=False`` (biases and norms) has
ratio 1 and b = 0: SGD with momentum. As in the paper the rate stands inside the average, so a step keeps the
rate that it was taken with.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from scaling_training.optim.tensors import full_norms, local


class Lars(torch.optim.Optimizer):
    """The rule above, for plain tensors and DTensors together. A parameter's state is ``momentum_buffer`` (v)."""

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "adapt": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step; every process of the parameters' meshes must."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._step(group, parameters)

    def _step(self, group: dict[str, Any], parameters: list[torch.nn.Parameter]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        weights = [local(parameter) for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        averages = [local(self.state[parameter]["momentum_buffer"]) for parameter in parameters]

        updates = [local(gradient) for gradient in gradients]
        if group["adapt"]:
            decay = group["weight_decay"]
            norms, slopes = full_norms([*parameters, *gradients]).chunk(2)
            denominator = slopes + decay * norms
            trusted = (norms > 0) & (denominator > 0)
            ratios = torch.where(trusted, group["trust_coefficient"] * norms / denominator, 1.0)
            updates = list(torch._foreach_add(updates, weights, alpha=decay))
            torch._foreach_mul_(updates, list(ratios.to(updates[0].dtype).unbind()))
        torch._foreach_mul_(averages, group["momentum"])
        torch._foreach_add_(averages, updates, alpha=group["lr"])
        torch._foreach_sub_(weights, averages)
