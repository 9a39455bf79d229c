"""The sums and metrics of multi-label classification: any number of labels is true of a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from scaling_training.data.batches import Batch
from scaling_training.evaluate.metrics import Metrics, Objective

F1 = Objective("f1", "max")


class MultiLabelTally:
    """Right and wrong answers for each label, samples without a wrong one, and losses, as sums over samples.

    Outputs are scores before the sigmoid [n, labels]; a label is said where its score is above 0, which is a
    probability above one half. Targets are 0 and 1 [n, labels]. ``loss_sum`` gives the sum of a batch's losses.
    """

    def __init__(
        self,
        labels: int,
        *,
        loss_sum: Callable[[torch.Tensor, Batch], torch.Tensor],
        device: torch.device,
    ) -> None:
        self._loss_of = loss_sum
        # One tensor for each type of number, so that processes add them up in two calls.
        self._counts = torch.zeros(3 * labels + 2, dtype=torch.int64, device=device)
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)
        self._both, self._said, self._true, self._exact, self._samples = torch.split(
            self._counts, [labels] * 3 + [1, 1]
        )
        self._loss, self._nll = torch.split(self._sums, [1, 1])

    @property
    def objective(self) -> Objective:
        """F1, the mean over the labels: most labels are false of most samples, so accuracy would say little."""
        return F1

    def update(self, output: torch.Tensor, batch: Batch) -> None:
        """Count a batch."""
        said, true = output > 0, batch.targets > 0.5
        self._both += (said & true).sum(dim=0)
        self._said += said.sum(dim=0)
        self._true += true.sum(dim=0)
        self._exact += (said == true).all(dim=1).sum()
        self._samples += len(batch)
        self._loss += self._loss_of(output, batch)
        each = functional.binary_cross_entropy_with_logits(output.double(), batch.targets.double(), reduction="none")
        self._nll += each.mean(dim=1).sum()

    def tensors(self) -> Sequence[torch.Tensor]:
        """Counts (int64) and sums (float64)."""
        return self._counts, self._sums

    def result(self, class_names: Sequence[str]) -> Metrics:
        """Precision, recall and f1 among the values are means over the labels (macro)."""
        samples = int(self._samples.item())
        if samples == 0:
            raise ValueError("there are no metrics of no samples")
        both, said, true = (counts.cpu().double() for counts in (self._both, self._said, self._true))
        # 0 where nothing was said or is true, as for classification.
        rates = {
            "precision": both / said.clamp_min(1),
            "recall": both / true.clamp_min(1),
            "f1": 2 * both / (said + true).clamp_min(1),
        }
        columns = zip(class_names, true.long().tolist(), *(values.tolist() for values in rates.values()), strict=True)
        return Metrics(
            values={
                **{name: float(values.mean().item()) for name, values in rates.items()},
                "exactMatch": int(self._exact.item()) / samples,
                "loss": float(self._loss.item()) / samples,
                "nll": float(self._nll.item()) / samples,
            },
            samples=samples,
            objective=self.objective,
            tables={"per_label": [dict(zip(("label", "samples", *rates), column, strict=True)) for column in columns]},
        )
