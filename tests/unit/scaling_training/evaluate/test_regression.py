"""The metrics of regression against scikit-learn, which sees every sample."""

from __future__ import annotations

import pytest
import torch
from sklearn import metrics as sklearn
from torch import nn

from scaling_api.metrics import REGRESSION
from scaling_training.data.batches import Batch
from scaling_training.models.task import RegressionTask
from tests.unit.scaling_training.builders import a_batch

CPU = torch.device("cpu")


def samples(outputs: int, count: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions that are roughly right, and what they should have been, far from 0."""
    generator = torch.Generator().manual_seed(outputs)
    targets = 150 + 70 * torch.randn(count, outputs, generator=generator)
    return targets + 30 * torch.randn(count, outputs, generator=generator), targets


@pytest.mark.parametrize("outputs", [1, 3])
def test_they_are_scikit_learns_however_the_samples_are_shared(outputs: int) -> None:
    predicted, targets = samples(outputs)
    task = RegressionTask(nn.Identity(), outputs)
    tallies = [task.tally(CPU) for _ in range(2)]
    for part, tally in ((slice(0, 7), tallies[0]), (slice(7, 200), tallies[1]), (slice(200, 300), tallies[0])):
        tally.update(predicted[part], a_batch(predicted[part], targets[part]))
    for mine, others in zip(tallies[0].tensors(), tallies[1].tensors(), strict=True):
        mine += others
    found = tallies[0].result(())
    values = found.scalars()
    assert values.keys() == REGRESSION.keys()
    assert values["mse"] == pytest.approx(sklearn.mean_squared_error(targets, predicted), rel=1e-5)
    assert values["mae"] == pytest.approx(sklearn.mean_absolute_error(targets, predicted), rel=1e-5)
    assert values["r2"] == pytest.approx(sklearn.r2_score(targets, predicted), rel=1e-5)
    assert values["loss"] == pytest.approx(values["mse"], rel=1e-5)
    assert found.samples == 300
    assert (found.objective.metric, found.objective.mode) == ("mse", "min")
    each = sklearn.r2_score(targets, predicted, multioutput="raw_values")
    assert found.tables["per_output"]["r2"] == pytest.approx(each.tolist(), rel=1e-5)


def test_the_loss_pairs_each_sample_with_its_own_target() -> None:
    task = RegressionTask(nn.Identity())
    batch: Batch = a_batch(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]))
    for output in (torch.tensor([1.0, 2.0, 5.0]), torch.tensor([[1.0], [2.0], [5.0]])):
        assert task.loss_sum(output, batch).item() == 4.0
    half = task.loss_sum(torch.tensor([1.0, 2.0, 5.0], dtype=torch.bfloat16), batch)
    assert (half.item(), half.dtype) == (4.0, torch.float32)


@pytest.mark.parametrize(("value", "count"), [(2.5, 4), (0.1, 100), (0.3, 1000), (123.456, 1000), (0.0, 4)])
def test_targets_that_are_all_alike(value: float, count: int) -> None:
    task = RegressionTask(nn.Identity())
    targets = torch.full((count,), value)
    for predicted, expected in ((targets, 1.0), (targets + 1, 0.0)):
        tally = task.tally(CPU)
        tally.update(predicted, a_batch(predicted, targets))
        assert tally.result(()).scalars()["r2"] == expected == sklearn.r2_score(targets.double(), predicted.double())


def test_no_samples_have_no_metrics() -> None:
    with pytest.raises(ValueError, match="no samples"):
        RegressionTask(nn.Identity()).tally(CPU).result(())
