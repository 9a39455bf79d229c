from __future__ import annotations

import pytest
import torch

from scaling_training.data.batches import Batch
from scaling_training.evaluate.counts import Counts, count
from scaling_training.evaluate.metrics import metrics_from
from scaling_training.models.task import ClassificationTask

CPU = torch.device("cpu")


def test_metrics_of_a_confusion_matrix_worked_out_by_hand() -> None:
    confusion = torch.tensor([[5, 1, 0], [2, 2, 0], [0, 1, 9]])
    metrics = metrics_from(Counts(confusion, torch.tensor([10.0], dtype=torch.float64)), ("a", "b", "c"))

    precision = [5 / 7, 2 / 4, 9 / 9]
    recall = [5 / 6, 2 / 4, 9 / 10]
    f1 = [2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True)]
    assert metrics.samples == 20
    assert metrics.accuracy == pytest.approx(16 / 20)
    assert metrics.precision == pytest.approx(sum(precision) / 3)
    assert metrics.recall == pytest.approx(sum(recall) / 3)
    assert metrics.f1 == pytest.approx(sum(f1) / 3)
    assert metrics.loss == pytest.approx(0.5)
    assert [row["class"] for row in metrics.per_class] == ["a", "b", "c"]
    assert [row["samples"] for row in metrics.per_class] == [6, 4, 10]
    assert [row["f1"] for row in metrics.per_class] == pytest.approx(f1)
    assert metrics.confusion == ((5, 1, 0), (2, 2, 0), (0, 1, 9))


def test_a_class_that_is_never_predicted_counts_as_zero() -> None:
    confusion = torch.tensor([[4, 0], [4, 0]])
    metrics = metrics_from(Counts(confusion, torch.zeros(1, dtype=torch.float64)), ("a", "b"))
    assert metrics.precision == pytest.approx(0.25)
    assert metrics.f1 == pytest.approx((2 * 0.5 * 1 / 1.5) / 2)


@pytest.mark.parametrize("sizes", [[7], [3, 4], [1, 1, 5]], ids=str)
def test_counts_are_the_same_however_the_samples_are_cut(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(7, 4, generator=generator)
    targets = torch.randint(0, 3, (7,), generator=generator)
    model = torch.nn.Linear(4, 3)
    keys = torch.arange(7)
    pieces = zip(*(torch.split(values, sizes) for values in (inputs, targets, keys)), strict=True)
    counts = count(ClassificationTask(model, 3), [Batch(*piece) for piece in pieces], device=CPU)

    output = model(inputs)
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for target, predicted in zip(targets.tolist(), output.argmax(1).tolist(), strict=True):
        expected[target, predicted] += 1
    assert counts.confusion.tolist() == expected.tolist()
    assert counts.loss_sum.item() == pytest.approx(
        torch.nn.functional.cross_entropy(output, targets, reduction="sum").item(), rel=1e-5
    )


def test_counting_leaves_the_model_as_it_was() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count(ClassificationTask(model, 3), [Batch(torch.ones(5, 4), torch.zeros(5, dtype=torch.int64))], device=CPU)

    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
