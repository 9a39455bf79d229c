"""The table of update rules, and building one for a model's parameters.

All run torch's fused kernels: one pass over each tensor, on CPU as on GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scaling_api.spec import OptimizerSpec
from scaling_training.registry import lookup, table

if TYPE_CHECKING:
    import torch

    Parameters = Iterable[torch.nn.Parameter]


@dataclass(frozen=True, slots=True)
class OptimizerRecord:
    """An update rule by name."""

    name: str
    description: str
    build: Callable[[OptimizerSpec, Parameters], torch.optim.Optimizer] = field(repr=False)


def _sgd(spec: OptimizerSpec, parameters: Parameters) -> torch.optim.Optimizer:
    from torch.optim import SGD

    momentum = spec.momentum or 0.0
    return SGD(parameters, lr=spec.learning_rate, momentum=momentum, weight_decay=spec.weight_decay, fused=True)


def _adam(spec: OptimizerSpec, parameters: Parameters) -> torch.optim.Optimizer:
    from torch.optim import Adam

    return Adam(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True)


def _adamw(spec: OptimizerSpec, parameters: Parameters) -> torch.optim.Optimizer:
    from torch.optim import AdamW

    return AdamW(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True)


OPTIMIZERS: Mapping[str, OptimizerRecord] = table(
    OptimizerRecord("sgd", "w -= rate * (momentum-averaged) gradient", _sgd),
    OptimizerRecord("adam", "Adam (Kingma and Ba 2015); weightDecay is added to the gradient", _adam),
    OptimizerRecord("adamw", "AdamW (Loshchilov and Hutter 2019); weightDecay shrinks the weights directly", _adamw),
)


def build_optimizer(spec: OptimizerSpec, parameters: Parameters) -> torch.optim.Optimizer:
    """The optimizer over these parameters. Its rate is set anew at each step by the schedule."""
    record = lookup(OPTIMIZERS, spec.name, field="training.optimizer.name")
    return record.build(spec, parameters)
