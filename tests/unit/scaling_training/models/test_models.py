from __future__ import annotations

from typing import Any

import pytest
import torch

from scaling_api.spec import ModelSpec
from scaling_training.errors import UserError
from scaling_training.models import build_task
from scaling_training.models.task import ClassificationTask
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


def test_small_cnn_has_the_weights_of_the_plain_construction() -> None:
    torch.manual_seed(7)
    layers: list[torch.nn.Module] = []
    for before, after in ((1, 32), (32, 64), (64, 128)):
        layers += [
            torch.nn.Conv2d(before, after, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(after),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
        ]
    layers += [torch.nn.Flatten(), torch.nn.Linear(1152, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10)]
    expected, found = torch.nn.Sequential(*layers).state_dict(), built(seed=7).state_dict()

    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["small-cnn", "mnist-cnn", "vit-tiny"])
def test_a_head_may_be_pooled_or_flattened(name: str) -> None:
    sizes = {}
    for head in ("pooled", "flatten"):
        model = build_task(
            ModelSpec.model_validate({"name": name, "head": head}), input_shape=(1, 16, 16), classes=10, seed=0
        ).model
        assert model.eval()(torch.zeros(2, 1, 16, 16)).shape == (2, 10)
        sizes[head] = sum(parameter.numel() for parameter in model.parameters())
    assert sizes["pooled"] < sizes["flatten"]


def test_mnist_cnn_is_a_convolution_of_32_and_a_dense_layer_of_128() -> None:
    model = build_task(ModelSpec(name="mnist-cnn"), input_shape=(1, 28, 28), classes=10, seed=0).model
    assert {name: tuple(value.shape) for name, value in model.named_parameters()} == {
        "0.weight": (32, 1, 3, 3),
        "0.bias": (32,),
        "4.weight": (128, 32 * 13 * 13),
        "4.bias": (128,),
        "6.weight": (10, 128),
        "6.bias": (10,),
    }
    with pytest.raises(UserError, match="at least 4x4; these are 3x8"):
        build_task(ModelSpec(name="mnist-cnn"), input_shape=(1, 3, 8), classes=10, seed=0)


def test_samples_that_are_no_images_need_a_factory() -> None:
    with pytest.raises(UserError, match=r"small-cnn takes images, and the data set's samples have the shape \(12,\)"):
        build_task(ModelSpec(name="small-cnn"), input_shape=(12,), classes=10, seed=0)


def test_images_too_small_are_refused_with_their_size() -> None:
    with pytest.raises(UserError, match="at least 8x8; these are 8x7"):
        built((1, 8, 7))


def test_a_tasks_loss_is_the_sum_over_samples() -> None:
    task = build_task(ModelSpec(name="small-cnn"), input_shape=(1, 8, 8), classes=3, seed=0)
    batch = a_batch(torch.zeros(2, 1, 8, 8), torch.tensor([0, 2]))
    logits = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    expected = -torch.log_softmax(logits, dim=1)[[0, 1], [0, 2]].sum()

    torch.testing.assert_close(task.loss_sum(logits, batch), expected)


_LOGITS = torch.tensor([[0.3, -1.0, 2.0], [1.0, 2.0, 3.0], [0.0, 0.5, -0.5]], dtype=torch.float64)
_TARGETS = torch.tensor([0, 2, 1])


def _loss(targets: torch.Tensor, **settings: Any) -> torch.Tensor:
    task = ClassificationTask(torch.nn.Identity(), 3, **settings)
    return task.loss_sum(_LOGITS, a_batch(torch.zeros(len(targets)), targets))


def test_label_smoothing_shares_a_part_of_the_target_among_all_classes() -> None:
    soft = 0.9 * torch.nn.functional.one_hot(_TARGETS, 3) + 0.1 / 3
    expected = -(soft * _LOGITS.log_softmax(dim=1)).sum()
    torch.testing.assert_close(_loss(_TARGETS, label_smoothing=0.1), expected)


def test_soft_targets_are_shares_of_the_classes() -> None:
    shares = torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0], [0.3, 0.3, 0.4]])
    torch.testing.assert_close(_loss(shares), -(shares * _LOGITS.log_softmax(dim=1)).sum())
    hard = torch.nn.functional.one_hot(_TARGETS, 3).float()
    torch.testing.assert_close(_loss(hard), _loss(_TARGETS))


def test_a_class_weight_counts_a_sample_so_many_times() -> None:
    weights = torch.tensor([2.0, 1.0, 3.0])
    each = -_LOGITS.log_softmax(dim=1)[range(3), _TARGETS]
    torch.testing.assert_close(_loss(_TARGETS, class_weights=weights), (each * weights[_TARGETS]).sum())


def test_a_weighted_loss_adds_up_over_shards() -> None:
    """What distributed training relies on: torch's own weighted mean would not."""
    task = ClassificationTask(torch.nn.Identity(), 3, label_smoothing=0.1, class_weights=torch.tensor([2.0, 1.0, 3.0]))
    parts = [
        task.loss_sum(_LOGITS[part], a_batch(torch.zeros(len(_TARGETS[part])), _TARGETS[part]))
        for part in (slice(0, 1), slice(1, 3))
    ]
    whole = task.loss_sum(_LOGITS, a_batch(torch.zeros(3), _TARGETS))
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_a_loss_is_summed_in_float32_at_least() -> None:
    task = ClassificationTask(torch.nn.Identity(), 3)
    assert task.loss_sum(_LOGITS.bfloat16(), a_batch(torch.zeros(3), _TARGETS)).dtype is torch.float32
