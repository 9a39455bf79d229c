"""How large a model is, and what it costs to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from scaling_training.models.task import Task


@dataclass(frozen=True, slots=True)
class Description:
    """Numbers about a model, for reports and studies."""

    parameters: int
    trainable: int  # parameters that are not frozen now
    flops: int  # of the forward pass per sample; a multiplication and an addition count as two


def describe(task: Task, inputs: Sequence[torch.Tensor]) -> Description:
    """Count the parameters, and the operations of one pass over ``inputs``, the model's arguments for a few samples.

    Operations are torch's own count (torch.utils.flop_counter): matrix products, convolutions and attention, without
    the cheap element-wise ones. The model's mode is put back.
    """
    from torch.utils.flop_counter import FlopCounterMode

    model = task.model
    was_training = model.training
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            model.eval()(*inputs)
    finally:
        model.train(was_training)
    parameters = list(model.parameters())
    return Description(
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        flops=counter.get_total_flops() // len(inputs[0]),
    )
