"""torch.compile, and when it is at work."""

from __future__ import annotations

import torch

from scaling_training.data.batches import Batch


class Compilation:
    """Compiles a model in place and foresees in which steps that happens.

    torch compiles when a function first meets its arguments, and once more for a batch of another size (an epoch's
    last one) or when other parameters get gradients (staged unfreezing): a step that usually takes milliseconds
    then takes a minute.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = tuple(model.parameters())
        self._met: set[tuple[object, ...]] = set()
        model.compile()

    def meets_new(self, batch: Batch) -> bool:
        """Whether the forward and backward pass of ``batch`` is the first of its kind; asked once for each."""
        wanting = sum(parameter.requires_grad for parameter in self._parameters)
        kind = (batch.inputs.shape, batch.inputs.dtype, wanting)
        if kind in self._met:
            return False
        self._met.add(kind)
        return True
