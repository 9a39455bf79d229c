"""The metrics against torchmetrics and scikit-learn, both of which see every sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn import metrics as sklearn
from torchmetrics import classification as torchmetrics

from scaling_api.optim import CLASSIFICATION_METRICS
from scaling_training.data.batches import Batch
from scaling_training.evaluate.classification import ClassificationTally
from scaling_training.evaluate.metrics import Metrics
from tests.unit.scaling_training.builders import a_batch

CPU = torch.device("cpu")


def cross_entropy(output: torch.Tensor, batch: Batch) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(output, batch.targets, reduction="sum")


def a_tally(classes: int, **options: Any) -> ClassificationTally:
    return ClassificationTally(classes, loss_sum=cross_entropy, device=CPU, **options)


def from_confusion(rows: list[list[int]]) -> Metrics:
    """The metrics of samples with these pairs of labels, predicted with great confidence."""
    pairs = [
        (true, predicted)
        for true, row in enumerate(rows)
        for predicted, number in enumerate(row)
        for _ in range(number)
    ]
    targets, predicted = torch.tensor(pairs).unbind(1)
    tally = a_tally(len(rows))
    tally.update(torch.nn.functional.one_hot(predicted, len(rows)) * 20.0, a_batch(targets, targets))
    return tally.result([chr(ord("a") + index) for index in range(len(rows))])


def test_the_api_knows_the_metrics() -> None:
    tally = a_tally(6)
    tally.update(torch.eye(6), a_batch(torch.eye(6), torch.arange(6)))
    assert set(tally.result("abcdef").scalars()) == set(CLASSIFICATION_METRICS)


def random_samples(seed: int, classes: int, samples: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores that are right more often than not, and the true classes, some of them rare."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.multinomial(torch.arange(1, classes + 1).float(), samples, replacement=True, generator=generator)
    scores = torch.randn(samples, classes, generator=generator) * 1.5
    return scores + 2 * torch.nn.functional.one_hot(targets, classes), targets


def test_the_plain_loss_knows_neither_smoothing_nor_weights() -> None:
    scores, targets = random_samples(3, 4)
    options: dict[str, Any] = {"label_smoothing": 0.2, "weight": torch.tensor([0.5, 1.0, 1.0, 3.0])}

    def as_trained(output: torch.Tensor, batch: Batch) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(output, batch.targets, reduction="sum", **options)

    tally = ClassificationTally(4, loss_sum=as_trained, device=CPU)
    for part in (slice(0, 123), slice(123, 500)):
        tally.update(scores[part], a_batch(scores[part], targets[part]))
    found = tally.result("abcd").scalars()
    probability = scores.double().softmax(dim=1)[torch.arange(500), targets]
    assert found["nll"] == pytest.approx(-probability.log().mean().item(), rel=1e-6)
    assert abs(found["loss"] - found["nll"]) > 0.1


def test_metrics_of_a_confusion_matrix_worked_out_by_hand() -> None:
    confusion = [[5, 1, 0], [2, 2, 0], [0, 1, 9]]
    metrics = from_confusion(confusion)

    precision = [5 / 7, 2 / 4, 9 / 9]
    recall = [5 / 6, 2 / 4, 9 / 10]
    f1 = [2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True)]
    found = metrics.scalars()
    assert metrics.samples == 20
    assert found["accuracy"] == pytest.approx(16 / 20)
    assert found["precision"] == pytest.approx(sum(precision) / 3)
    assert found["recall"] == pytest.approx(sum(recall) / 3)
    assert found["f1"] == pytest.approx(sum(f1) / 3)
    assert "top5Accuracy" not in found
    per_class = metrics.tables["per_class"]
    assert [row["class"] for row in per_class] == ["a", "b", "c"]
    assert [row["samples"] for row in per_class] == [6, 4, 10]
    assert [row["f1"] for row in per_class] == pytest.approx(f1)
    assert metrics.tables["confusion"] == confusion
    assert metrics.to_dict()["per_class"] == per_class
    # Certain of all, right in 16 of 20.
    assert found["calibrationError"] == pytest.approx(4 / 20, abs=1e-6)


def test_a_class_that_is_never_predicted_counts_as_zero() -> None:
    found = from_confusion([[4, 0], [4, 0]]).scalars()
    assert found["precision"] == pytest.approx(0.25)
    assert found["f1"] == pytest.approx((2 * 0.5 * 1 / 1.5) / 2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 5, 12])
@pytest.mark.parametrize("sizes", [[500], [211, 289], [1, 498, 1]], ids=str)
def test_however_the_samples_are_cut_the_metrics_are_torchmetrics_and_scikit_learns(
    seed: int, classes: int, sizes: list[int]
) -> None:
    scores, targets = random_samples(seed, classes)
    tally = a_tally(classes)
    for piece, true in zip(torch.split(scores, sizes), torch.split(targets, sizes), strict=True):
        tally.update(piece, a_batch(piece, true))
    metrics = tally.result([str(index) for index in range(classes)])
    found = metrics.scalars()

    predicted = scores.argmax(1)
    assert metrics.samples == 500
    assert metrics.tables["confusion"] == sklearn.confusion_matrix(targets, predicted).tolist()
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(targets, predicted))
    assert found["loss"] == pytest.approx(torch.nn.functional.cross_entropy(scores, targets).item(), rel=1e-5)
    for average in ("macro", "micro", "weighted"):
        expected = sklearn.precision_recall_fscore_support(targets, predicted, average=average, zero_division=0)
        assert list(metrics.tables["averages"][average].values()) == pytest.approx(expected[:3], rel=1e-5), average
    by_class = sklearn.precision_recall_fscore_support(targets, predicted, average=None, zero_division=0)
    for name, column in zip(("precision", "recall", "f1", "samples"), by_class, strict=True):
        assert [row[name] for row in metrics.tables["per_class"]] == pytest.approx(column.tolist(), rel=1e-5)

    calibration = torchmetrics.MulticlassCalibrationError(classes, n_bins=15, norm="l1")(scores.softmax(1), targets)
    assert found["calibrationError"] == pytest.approx(calibration.item(), rel=1e-5)
    if classes > 5:
        top = torchmetrics.MulticlassAccuracy(classes, top_k=5, average="micro")(scores, targets)
        assert found["top5Accuracy"] == pytest.approx(top.item())
        expected_top = sklearn.top_k_accuracy_score(targets, scores, k=5, labels=range(classes))
        assert found["top5Accuracy"] == pytest.approx(expected_top)


def test_k_and_the_bins_can_be_chosen() -> None:
    scores, targets = random_samples(7, 4)
    tally = a_tally(4, top_k=2, bins=10)
    tally.update(scores, a_batch(scores, targets))
    metrics = tally.result("abcd")
    top = torchmetrics.MulticlassAccuracy(4, top_k=2, average="micro")(scores, targets)
    calibration = torchmetrics.MulticlassCalibrationError(4, n_bins=10, norm="l1")(scores.softmax(1), targets)
    assert metrics.scalars()["top2Accuracy"] == pytest.approx(top.item())
    assert metrics.scalars()["calibrationError"] == pytest.approx(calibration.item(), rel=1e-5)


def test_the_reliability_diagram_holds_every_sample_once() -> None:
    scores, targets = random_samples(3, 6)
    tally = a_tally(6)
    tally.update(scores, a_batch(scores, targets))
    metrics = tally.result("abcdef")
    rows = metrics.tables["calibration"]
    assert sum(row["samples"] for row in rows) == 500
    assert sum(row["samples"] * row["accuracy"] for row in rows) / 500 == pytest.approx(metrics.scalars()["accuracy"])
    assert all(row["above"] < row["confidence"] <= row["upTo"] for row in rows)


def test_full_confidence_lies_in_the_last_bin() -> None:
    tally = a_tally(2)
    tally.update(torch.tensor([[200.0, -200.0]]), a_batch(torch.zeros(1), torch.zeros(1, dtype=torch.int64)))
    assert tally.result("ab").tables["calibration"] == [
        {"above": 14 / 15, "upTo": 1.0, "samples": 1, "confidence": 1.0, "accuracy": 1.0}
    ]


def test_no_samples_have_no_metrics() -> None:
    with pytest.raises(ValueError, match="no samples"):
        a_tally(2).result("ab")
