"""The sums and metrics of classification: one true class for each sample, one score for each class.

Metrics are torchmetrics' where those can be had from sums. It is given one pair of labels for each sample
counted, which is the same multiset of pairs that the evaluation saw, so nothing is approximated. Its
calibration error wants every sample's confidence at once; here it is taken from sums per bin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from scaling_api.metrics import TOP_K
from scaling_training.data.batches import Batch
from scaling_training.evaluate.metrics import Metrics, Objective

CALIBRATION_BINS = 15
ACCURACY = Objective("accuracy", "max")
_AVERAGES = ("macro", "micro", "weighted")


class ClassificationTally:
    """Confusion matrix, losses, top-k hits and calibration bins, as sums over samples.

    Outputs are scores before the softmax [n, classes], targets class numbers [n]. ``loss_sum`` gives the sum of
    a batch's losses as they are trained on; beside it goes the plain one. Counts are exact; the sums of losses and
    confidences are in float64.
    """

    def __init__(
        self,
        classes: int,
        *,
        loss_sum: Callable[[torch.Tensor, Batch], torch.Tensor],
        device: torch.device,
        top_k: int = TOP_K,
        bins: int = CALIBRATION_BINS,
    ) -> None:
        self._classes = classes
        self._top_k = top_k
        self._loss_of = loss_sum
        # One tensor for each type of number, so that processes add them up in two calls; the rest are views.
        self._counts = torch.zeros(classes * classes + 2 * bins + 1, dtype=torch.int64, device=device)
        self._sums = torch.zeros(bins + 2, dtype=torch.float64, device=device)
        self._pairs, self._in_bin, self._hits_in_bin, self._top_hits = torch.split(
            self._counts, [classes * classes, bins, bins, 1]
        )
        self._confidence, self._loss, self._nll = torch.split(self._sums, [bins, 1, 1])
        self._inner_edges = torch.linspace(0, 1, bins + 1, device=device)[1:-1].contiguous()

    @property
    def objective(self) -> Objective:
        """The accuracy, the higher the better."""
        return ACCURACY

    def update(self, output: torch.Tensor, batch: Batch) -> None:
        """Count a batch."""
        targets = batch.targets
        self._loss += self._loss_of(output, batch)
        scores = output.to(torch.promote_types(output.dtype, torch.float32))
        self._nll += functional.cross_entropy(scores, targets, reduction="none").double().sum()
        predicted = output.argmax(dim=1)
        self._pairs += torch.bincount(targets * self._classes + predicted, minlength=len(self._pairs))
        if self._classes > self._top_k:
            best = output.topk(self._top_k, dim=1).indices
            self._top_hits += (best == targets[:, None]).sum()
        confidence = output.float().softmax(dim=1).gather(1, predicted[:, None])[:, 0]
        # A bin holds its upper edge, not its lower one, as in the paper.
        bins = torch.bucketize(confidence, self._inner_edges)
        self._in_bin += torch.bincount(bins, minlength=len(self._in_bin))
        self._hits_in_bin += torch.bincount(bins[predicted == targets], minlength=len(self._in_bin))
        self._confidence.index_add_(0, bins, confidence.double())

    def tensors(self) -> Sequence[torch.Tensor]:
        """Counts (int64) and sums (float64)."""
        return self._counts, self._sums

    @property
    def confusion(self) -> torch.Tensor:
        """int64 [classes, classes]; row: the true class, column: the predicted one."""
        return self._pairs.view(self._classes, self._classes)

    def result(self, class_names: Sequence[str]) -> Metrics:
        """Precision, recall and f1 among the values are means over the classes (macro)."""
        confusion = self.confusion.cpu()
        samples = int(confusion.sum())
        if samples == 0:
            raise ValueError("there are no metrics of no samples")
        averages = {average: _rates(confusion, average) for average in _AVERAGES}
        values = {
            "accuracy": int(confusion.diagonal().sum()) / samples,
            **{name: rates[0] for name, rates in averages["macro"].items()},
            "loss": float(self._loss.item()) / samples,
            "nll": float(self._nll.item()) / samples,
        }
        if self._classes > self._top_k:
            values[f"top{self._top_k}Accuracy"] = int(self._top_hits.item()) / samples
        # Guo et al. 2017, equation 3; the counts of a bin cancel.
        values["calibrationError"] = float((self._hits_in_bin - self._confidence).abs().sum().item()) / samples
        return Metrics(
            values=values,
            samples=samples,
            objective=self.objective,
            tables={
                "averages": {
                    average: {name: rates[0] for name, rates in found.items()} for average, found in averages.items()
                },
                "per_class": _per_class(confusion, class_names),
                "confusion": confusion.tolist(),
                "calibration": self._calibration(),
            },
        )

    def _calibration(self) -> list[dict[str, float | int]]:
        """The reliability diagram: one entry for each bin that is not empty."""
        bins = len(self._in_bin)
        rows = zip(self._in_bin.tolist(), self._hits_in_bin.tolist(), self._confidence.tolist(), strict=True)
        return [
            {
                "above": index / bins,
                "upTo": (index + 1) / bins,
                "samples": samples,
                "confidence": confidence / samples,
                "accuracy": hits / samples,
            }
            for index, (samples, hits, confidence) in enumerate(rows)
            if samples
        ]


def _per_class(confusion: torch.Tensor, class_names: Sequence[str]) -> list[dict[str, Any]]:
    rates = _rates(confusion, "none")
    columns = zip(class_names, confusion.sum(dim=1).tolist(), *rates.values(), strict=True)
    return [dict(zip(("class", "samples", *rates), column, strict=True)) for column in columns]


def _rates(confusion: torch.Tensor, average: str) -> dict[str, list[float]]:
    """Precision, recall and f1, averaged so; one number each, or one for each class."""
    from torchmetrics.functional import classification

    classes = len(confusion)
    label = torch.arange(classes)
    repeats = confusion.flatten()
    target = label.repeat_interleave(classes).repeat_interleave(repeats)
    predicted = label.repeat(classes).repeat_interleave(repeats)
    functions = {
        "precision": classification.multiclass_precision,
        "recall": classification.multiclass_recall,
        "f1": classification.multiclass_f1_score,
    }
    return {
        # Averages are taken in float32 by torchmetrics; the numbers themselves are ratios of counts.
        name: function(predicted, target, num_classes=classes, average=average).reshape(-1).tolist()
        for name, function in functions.items()
    }
