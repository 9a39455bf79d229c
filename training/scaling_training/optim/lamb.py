"""LAMB, layer-wise adaptive moments for batch training (You et al. 2020, algorithm 2).

For each parameter tensor w with gradient g, rate r, decay b, at its step t = 1, 2, …:

    m <- b1 m + (1 - b1) g              v <- b2 v + (1 - b2) g^2
    u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + b w
    w <- w - r (||w|| / ||u||) u        (the ratio is 1 when a norm is 0)

The paper's function phi is the identity, as in its experiments. Norms are over the full tensor, also when it is
a DTensor. A group with ``adapt=False`` (biases and norms) has ratio 1 and b = 0: Adam.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from scaling_training.optim.tensors import full_norms, local


class Lamb(torch.optim.Optimizer):
    """The rule above, for plain tensors and DTensors together. A parameter's state is named like Adam's."""

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapt": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step; every process of the parameters' meshes must."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._step(group, parameters)

    def _step(self, group: dict[str, Any], parameters: list[torch.nn.Parameter]) -> None:
        states = [self._state(parameter) for parameter in parameters]
        weights = [local(parameter) for parameter in parameters]
        gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        means = [local(state["exp_avg"]) for state in states]
        squares = [local(state["exp_avg_sq"]) for state in states]
        beta1, beta2 = group["betas"]

        torch._foreach_lerp_(means, gradients, 1.0 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1.0 - beta2)
        torch._foreach_add_([state["step"] for state in states], 1.0)
        steps = [state["step"].item() for state in states]
        roots = torch._foreach_div(squares, [1.0 - beta2**step for step in steps])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        updates = list(torch._foreach_div(means, [1.0 - beta1**step for step in steps]))
        torch._foreach_div_(updates, roots)
        if group["adapt"]:
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
            wholes = [_like(parameter, update) for parameter, update in zip(parameters, updates, strict=True)]
            norms, lengths = full_norms([*parameters, *wholes]).chunk(2)
            ratios = torch.where((norms > 0) & (lengths > 0), norms / lengths, 1.0)
            torch._foreach_mul_(updates, list(ratios.to(updates[0].dtype).unbind()))
        torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _state(self, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = self.state[parameter]
        if not state:
            # On the CPU, as torch's own keep it: reading it must not wait for a GPU.
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def _like(parameter: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """This process's ``part`` as a tensor that is divided like the parameter."""
    if not isinstance(parameter, DTensor):
        return part
    whole: torch.Tensor = DTensor.from_local(
        part,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
    return whole
