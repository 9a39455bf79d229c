"""The sums and metrics of regression: one or several numbers for each sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from scaling_training.data.batches import Batch
from scaling_training.evaluate.metrics import Metrics, Objective

# Of the mean square of targets: less of a variance is what rounding leaves of none.
_ROUNDING = 1e-12

SQUARED_ERROR = Objective("mse", "min")


class RegressionTally:
    """Errors and moments of each output, and the loss, as sums over samples in float64.

    Outputs and targets are numbers [n, outputs], or [n] for one. ``loss_sum`` gives the sum of a batch's losses.
    """

    def __init__(
        self, outputs: int, *, loss_sum: Callable[[torch.Tensor, Batch], torch.Tensor], device: torch.device
    ) -> None:
        self._loss_of = loss_sum
        # One tensor, so that processes add it up in one call: squared and absolute errors, targets and their squares
        # for each output, then samples and loss.
        self._sums = torch.zeros(4 * outputs + 2, dtype=torch.float64, device=device)
        self._squared, self._absolute, self._targets, self._squares, self._samples, self._loss = torch.split(
            self._sums, [outputs] * 4 + [1, 1]
        )

    @property
    def objective(self) -> Objective:
        """The mean squared error, the lower the better."""
        return SQUARED_ERROR

    def update(self, output: torch.Tensor, batch: Batch) -> None:
        """Count a batch."""
        targets = batch.targets.reshape(len(batch), -1).double()
        errors = output.reshape(len(batch), -1).double() - targets
        self._squared += errors.square().sum(dim=0)
        self._absolute += errors.abs().sum(dim=0)
        self._targets += targets.sum(dim=0)
        self._squares += targets.square().sum(dim=0)
        self._samples += len(batch)
        self._loss += self._loss_of(output, batch)

    def tensors(self) -> Sequence[torch.Tensor]:
        """The sums."""
        return (self._sums,)

    def result(self, class_names: Sequence[str]) -> Metrics:
        """Means over samples and outputs; in the tables each output's own."""
        samples = int(self._samples.item())
        if samples == 0:
            raise ValueError("there are no metrics of no samples")
        mse, mae = self._squared / samples, self._absolute / samples
        square = self._squares / samples
        spread = square - (self._targets / samples).square()
        # As scikit-learn has it: where the targets are all alike, 1 for no error and 0 for any.
        r2 = torch.where(spread > _ROUNDING * square, 1 - mse / spread.clamp_min(1e-300), (mse == 0).double())
        each = {"mse": mse, "mae": mae, "r2": r2}
        return Metrics(
            values={
                **{name: float(value.mean().item()) for name, value in each.items()},
                "loss": float(self._loss.item()) / samples,
            },
            samples=samples,
            objective=self.objective,
            tables={"per_output": {name: value.tolist() for name, value in each.items()}},
        )
