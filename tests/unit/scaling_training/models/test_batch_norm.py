from __future__ import annotations

import pytest
import torch
from torch import nn

from scaling_training.models.batch_norm import single_values
from scaling_training.models.task import ClassificationTask
from scaling_training.parallel.recompute import recompute_blocks
from scaling_training.parallel.replica import Replica
from tests.unit.scaling_training.builders import a_batch


def a_model() -> nn.Sequential:
    """The last feature map is one number per channel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        model(torch.randn(8, 1, 3, 3))
    return model


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_batch_of_one_sample_is_normalised_by_the_running_statistics(recomputed: bool) -> None:
    model = a_model()
    norm = model.get_submodule("1")
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    image = torch.randn(1, 1, 3, 3)
    expected = nn.functional.cross_entropy(model.eval()(image), torch.tensor([2]))
    model.train()
    if recomputed:
        recompute_blocks(model)
    loss = Replica(ClassificationTask(model, 3)).forward_backward(a_batch(image, torch.tensor([2])), scale=1.0)
    torch.testing.assert_close(loss, expected.detach())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert norm.training


def test_more_values_are_treated_as_ever() -> None:
    model, plain = a_model(), a_model()
    images = torch.randn(1, 1, 4, 4)
    with single_values(model):
        found = model[:2](images)
    assert torch.equal(found, plain[:2](images))
    assert torch.equal(model.get_buffer("1.running_var"), plain.get_buffer("1.running_var"))


def test_without_running_statistics_it_is_refused_as_ever() -> None:
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    with single_values(norm), pytest.raises(ValueError, match="more than 1 value"):
        norm(torch.randn(1, 4))
    assert norm.training
