"""The metrics of multi-label classification against scikit-learn, which sees every sample."""

from __future__ import annotations

import pytest
import torch
from sklearn import metrics as sklearn
from torch import nn
from torch.nn import functional

from scaling_api.metrics import MULTI_LABEL
from scaling_training.models.task import MultiLabelTask
from tests.unit.scaling_training.builders import a_batch

CPU = torch.device("cpu")
NAMES = ("red", "round", "rare", "never")


def samples(count: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores that are right more often than not, and the true labels; the last is never true."""
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.6, 0.3, 0.05, 0.0])
    targets = (torch.rand(count, 4, generator=generator) < shares).float()
    return 2 * torch.randn(count, 4, generator=generator) + 3 * targets - 1.5, targets


def test_they_are_scikit_learns_however_the_samples_are_shared() -> None:
    scores, targets = samples()
    task = MultiLabelTask(nn.Identity(), 4)
    tallies = [task.tally(CPU) for _ in range(2)]
    for part, tally in ((slice(0, 7), tallies[0]), (slice(7, 200), tallies[1]), (slice(200, 300), tallies[0])):
        tally.update(scores[part], a_batch(scores[part], targets[part]))
    for mine, others in zip(tallies[0].tensors(), tallies[1].tensors(), strict=True):
        mine += others
    found = tallies[0].result(NAMES)
    values, said = found.scalars(), scores > 0
    assert values.keys() == MULTI_LABEL.keys()
    for name in ("precision", "recall", "f1"):
        reference = getattr(sklearn, f"{name}_score")(targets, said, average="macro", zero_division=0)
        assert values[name] == pytest.approx(reference, rel=1e-6), name
    assert values["exactMatch"] == pytest.approx(sklearn.accuracy_score(targets.bool(), said))
    plain = functional.binary_cross_entropy_with_logits(scores, targets).item()
    assert values["loss"] == pytest.approx(plain, rel=1e-5)
    assert values["nll"] == pytest.approx(plain, rel=1e-5)
    assert (found.objective.metric, found.objective.mode) == ("f1", "max")
    rows = found.tables["per_label"]
    assert [row["label"] for row in rows] == list(NAMES)
    assert [row["samples"] for row in rows] == targets.sum(dim=0).int().tolist()
    each = sklearn.f1_score(targets, said, average=None, zero_division=0)
    assert [row["f1"] for row in rows] == pytest.approx(each.tolist(), rel=1e-6)


def test_the_loss_of_halves_is_that_of_the_whole() -> None:
    scores, targets = samples(10)
    task = MultiLabelTask(nn.Identity(), 4)
    whole = task.loss_sum(scores, a_batch(scores, targets))
    halves = [task.loss_sum(scores[part], a_batch(scores[part], targets[part])) for part in (slice(0, 5), slice(5, 10))]
    assert whole.item() == pytest.approx(sum(half.item() for half in halves), rel=1e-6)


def test_no_samples_have_no_metrics() -> None:
    with pytest.raises(ValueError, match="no samples"):
        MultiLabelTask(nn.Identity(), 4).tally(CPU).result(NAMES)
