from __future__ import annotations

from typing import Any

import pytest
import torch

from scaling_api.spec import ModelSpec
from scaling_training.errors import UserError
from scaling_training.models import build_task
from tests.unit.scaling_training.builders import a_batch


def built(shape: tuple[int, int, int] = (1, 28, 28), seed: int = 0, **spec: Any) -> torch.nn.Module:
    return build_task(ModelSpec(name="small-cnn", **spec), input_shape=shape, classes=10, seed=seed).model


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 20)])
def test_small_cnn_takes_images_of(shape: tuple[int, int, int]) -> None:
    assert built(shape)(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("width", "channels", "dense"),
    [(1.0, [32, 64, 128], 512), (0.5, [16, 32, 64], 256), (0.125, [4, 8, 16], 64)],
)
def test_width_scales_all_channels(width: float, channels: list[int], dense: int) -> None:
    model = built(width=width)
    convolutions = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    linear = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]

    assert [layer.out_channels for layer in convolutions] == channels
    assert [layer.out_features for layer in linear] == [dense, 10]


def test_initial_weights_are_a_function_of_the_seed_alone() -> None:
    first = built(seed=4).state_dict()
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    again, other = built(seed=4).state_dict(), built(seed=5).state_dict()

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])
    assert torch.equal(before, torch.random.get_rng_state())


def test_images_too_small_are_refused_with_their_size() -> None:
    with pytest.raises(UserError, match="at least 8x8; these are 8x7"):
        built((1, 8, 7))


def test_a_tasks_loss_is_the_sum_over_samples() -> None:
    task = build_task(ModelSpec(name="small-cnn"), input_shape=(1, 8, 8), classes=3, seed=0)
    batch = a_batch(torch.zeros(2, 1, 8, 8), torch.tensor([0, 2]))
    logits = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    expected = -torch.log_softmax(logits, dim=1)[[0, 1], [0, 2]].sum()

    torch.testing.assert_close(task.loss_sum(logits, batch), expected)
    assert task.predictions(logits).tolist() == [0, 2]
