"""A task's model as this process holds it, and stepping it; see `parallelize` for how it came to be laid so."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from scaling_training.models.batch_norm import single_values
from scaling_training.models.dropout import keyed
from scaling_training.parallel.batch_norm import standing_in
from scaling_training.parallel.gradients import MeanGradients

if TYPE_CHECKING:
    from scaling_training.data.batches import Batch


class SteppedTask(Protocol):
    """What of a task a replica needs."""

    @property
    def model(self) -> nn.Module: ...

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]: ...

    def loss_sum(self, output: torch.Tensor, batch: Batch) -> torch.Tensor: ...


class Replica:
    """One process's part of the model on one mesh."""

    def __init__(
        self,
        task: SteppedTask,
        *,
        gradients: MeanGradients | None = None,
        around: Callable[[Batch], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._task = task
        self._gradients = gradients
        self._around = around

    @property
    def model(self) -> nn.Module:
        """Holds this process's parameters; those that are sharded are DTensors."""
        return self._task.model

    def forward_backward(self, batch: Batch, *, scale: float, sync: bool = True) -> torch.Tensor:
        """Forward and backward of one micro-batch; the sum of its samples' losses, detached.

        Gradients of ``scale`` times the sum are added up over the micro-batches. After one with ``sync``, the last of
        a step, each ``grad`` is the mean over the batch ranks. A step of N samples in all hence takes the scale
        batch ranks / N. With scale 0 the batch only stands in for a missing one: its loss is 0, and no
        statistic of the model knows of it. Every rank calls it equally often, with the same ``sync``.
        """
        single = single_values(self.model) if len(batch) == 1 else nullcontext()
        counted = nullcontext() if scale != 0 else standing_in(self.model)
        with keyed(self.model, batch.keys), single, counted:
            return self._forward_backward(batch, scale=scale, sync=sync)

    def _forward_backward(self, batch: Batch, *, scale: float, sync: bool) -> torch.Tensor:
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(sync)
        with self._around(batch):
            output = self.model(*self._task.inputs(batch))
            loss_sum = self._task.loss_sum(output, batch)
        if self._gradients is None or not sync:
            (loss_sum * scale).backward()  # type: ignore[no-untyped-call]
        else:
            self._gradients.open()
            try:
                (loss_sum * scale).backward()  # type: ignore[no-untyped-call]
            except BaseException:
                self._gradients.abandon()
                raise
            self._gradients.close()
        return loss_sum.detach() if scale != 0 else torch.zeros_like(loss_sum)

    def forward(self, batch: Batch) -> Any:
        """The model's output. With more axes than data, every rank calls it equally often; `rest` after the last."""
        with self._around(batch):
            return self.model(*self._task.inputs(batch))

    def rest(self) -> None:
        """Give the model its lasting parameters back, those which the optimizer holds.

        After a forward pass without a backward pass FSDP leaves gathered ones in place of the outermost layers', and
        what is set on those (as ``requires_grad``) is lost.
        """
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
