"""A task of the user's own whose loss is no sum, or whose tally does not count, is told so with its line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from scaling_training.data.batches import Batch
from scaling_training.errors import UserError
from scaling_training.evaluate import Metrics, Objective
from scaling_training.models.task import ClassificationTask
from scaling_training.models.user import check_task
from tests.unit.scaling_training.builders import a_batch

_HERE = r", at .*test_own_task.py:\d+"


class OwnTally:
    """Sums of squared errors and of errors."""

    objective = Objective("bias", "min")

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def update(self, output: torch.Tensor, batch: Batch) -> None:
        errors = (output[:, 0] - batch.targets).double()
        self.sums += torch.stack([errors.square().sum(), errors.sum(), torch.tensor(float(len(batch)))])

    def tensors(self) -> Sequence[torch.Tensor]:
        return (self.sums,)

    def values(self) -> dict[str, Any]:
        squared, errors, samples = self.sums.tolist()
        return {"loss": squared / samples, "bias": abs(errors) / samples}

    def result(self, class_names: Sequence[str]) -> Metrics:
        return Metrics(self.values(), samples=int(self.sums[2].item()), objective=self.objective)


class OwnTask:
    """As small as a task can be."""

    kind: type[OwnTally] = OwnTally

    def __init__(self) -> None:
        self.model = nn.Linear(5, 1)

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        return (batch.inputs,)

    def loss_sum(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        return functional.mse_loss(output[:, 0], batch.targets, reduction="sum")

    def tally(self, device: torch.device) -> Any:
        return self.kind(device)


BATCH = a_batch(torch.arange(10.0).reshape(2, 5), torch.tensor([1.0, -2.0]))


def refusal(task: Any, batch: Batch = BATCH) -> str:
    with pytest.raises(UserError) as raised:
        check_task(task, batch, classes=2, field="model.factory own:task")
    return str(raised.value)


def test_a_task_that_is_right_passes() -> None:
    check_task(OwnTask(), BATCH, classes=2)


class MeanTask(OwnTask):
    def loss_sum(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        return functional.mse_loss(output[:, 0], batch.targets)


class MeanOfClasses(ClassificationTask):
    def loss_sum(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        return functional.cross_entropy(output, batch.targets)


@pytest.mark.parametrize(
    ("task", "batch"),
    [
        pytest.param(MeanTask(), BATCH, id="own"),
        pytest.param(
            MeanOfClasses(nn.Linear(5, 2), 2), a_batch(BATCH.inputs, torch.tensor([0, 1])), id="of the library's"
        ),
    ],
)
def test_the_mean_of_the_losses_is_refused(task: Any, batch: Batch) -> None:
    said = refusal(task, batch)
    assert said.startswith("model.factory own:task: loss_sum returned the mean of the samples' losses (")
    assert "write reduction='sum', at " in said
    assert said.rpartition(":")[0].endswith("test_own_task.py")


def test_a_loss_that_compares_the_samples_of_a_batch_is_the_users_to_answer_for() -> None:
    class Contrastive(OwnTask):
        def loss_sum(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
            return (output - output.mean()).square().sum() + output.sum() * 0.1

    check_task(Contrastive(), BATCH, classes=2)


class NoTuple(OwnTask):
    def inputs(self, batch: Batch) -> Any:
        return batch.inputs


class OneForEach(OwnTask):
    def loss_sum(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        return (output[:, 0] - batch.targets).square()


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (NoTuple(), r"inputs must return the model's arguments as a tuple, not .* Tensor: write \(batch.inputs,\)"),
        (OneForEach(), r"loss_sum must return a tensor of one element, not one of shape \(2,\)"),
    ],
    ids=["inputs", "a loss for each sample"],
)
def test_odd_methods_are_told(task: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=f"model.factory: {sentence}"):
        check_task(task, BATCH, classes=2, field="model.factory")


class NoObjective(OwnTally):
    objective = "bias"  # type: ignore[assignment]


class NoResult:
    objective = OwnTally.objective

    def __init__(self, device: torch.device) -> None:
        pass

    def update(self, output: torch.Tensor, batch: Batch) -> None:
        pass


class Raises(OwnTally):
    def update(self, output: torch.Tensor, batch: Batch) -> None:
        raise KeyError("bleu")


class NoLoss(OwnTally):
    def values(self) -> dict[str, Any]:
        return {"bias": 1.0}


class OtherMetrics(OwnTally):
    def values(self) -> dict[str, Any]:
        return {"loss": 1.0, "wer": 0.5}


class OddName(OwnTally):
    def values(self) -> dict[str, Any]:
        return {"loss": 1.0, "word error rate": 0.5}


class NoNumber(OwnTally):
    def values(self) -> dict[str, Any]:
        return {"loss": 1.0, "bias": "small"}


class AMapping(OwnTally):
    def result(self, class_names: Sequence[str]) -> Any:
        return self.values()


class Copies(OwnTally):
    def tensors(self) -> Sequence[torch.Tensor]:
        return (self.sums.clone(),)


class PlainNumbers(OwnTally):
    def tensors(self) -> Any:
        return (1.0, 2.0)


class NeedsHits(OwnTally):
    def result(self, class_names: Any) -> Any:
        return 1 / int(self.sums[1] * 0)


def test_a_tally_that_has_no_result_of_a_few_samples_is_taken() -> None:
    task = OwnTask()
    task.kind = NeedsHits
    assert check_task(task, BATCH, classes=2, field="model.factory") is None


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (NoObjective, r"lacks an objective \(scaling_training.evaluate.Objective\)"),
        (NoResult, r"the tally \(NoResult\) lacks tensors and result"),
        (Raises, f"the task's tally cannot count: it raised KeyError: 'bleu'{_HERE}"),
        (NoLoss, f"the tally's result has no metric loss, which early stopping and curves need; add it .*{_HERE}"),
        (OtherMetrics, f"has no metric bias, which is the objective; add it to values{_HERE}"),
        (OddName, f"'word error rate' is not a metric's name: write letters, digits, - and _.*{_HERE}"),
        (NoNumber, f"a metric of the tally's result is no number .*{_HERE}"),
        (AMapping, f"the tally's result is a dict; it must be scaling_training.evaluate.Metrics{_HERE}"),
        (Copies, f"the tally's tensors are copies: .* return the tensors themselves{_HERE}"),
        (PlainNumbers, f"the tally's tensors must be its sums, as torch tensors{_HERE}"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_tally_that_does_not_count_is_told(kind: Any, sentence: str) -> None:
    task = OwnTask()
    task.kind = kind
    with pytest.raises(UserError, match=f"model.factory: .*{sentence}"):
        check_task(task, BATCH, classes=2, field="model.factory")
