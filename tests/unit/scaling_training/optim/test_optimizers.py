from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from scaling_api.spec import OptimizerSpec, TrainingSpec
from scaling_training.optim import OPTIMIZERS, build_optimizer, global_batch_size

# One weight of 2 with gradient 0.5, twice.
ROWS = [
    pytest.param({"name": "gradient-descent"}, [1.95, 1.9], id="gradient descent"),
    pytest.param({"name": "sgd"}, [2 - 0.1 * 0.5, 2 - 0.1 * 1.0], id="sgd"),
    pytest.param({"name": "sgd", "momentum": 0.9}, [1.95, 1.95 - 0.1 * (0.9 * 0.5 + 0.5)], id="sgd with momentum"),
    pytest.param({"name": "sgd", "weightDecay": 0.1}, [2 - 0.1 * 0.7, 1.93 - 0.1 * (0.5 + 0.193)], id="sgd with decay"),
    # v = 0.5, then 0.95; the step is g + 0.9 v.
    pytest.param(
        {"name": "sgd", "momentum": 0.9, "nesterov": True},
        [2 - 0.1 * 0.95, 2 - 0.1 * 0.95 - 0.1 * (0.5 + 0.9 * 0.95)],
        id="nesterov",
    ),
    pytest.param({"name": "adagrad"}, [1.9, 1.9 - 0.1 / math.sqrt(2)], id="adagrad"),
    pytest.param(
        {"name": "rmsprop", "beta2": 0.9},
        [2 - 0.1 / math.sqrt(0.1), 2 - 0.1 / math.sqrt(0.1) - 0.1 / math.sqrt(0.19)],
        id="rmsprop",
    ),
    # With a constant gradient Adam's corrected ratio is 1 at every step.
    pytest.param({"name": "adam"}, [1.9, 1.8], id="adam"),
    pytest.param({"name": "adam", "epsilon": 0.5}, [1.95, 1.9], id="adam with a large epsilon"),
    pytest.param(
        {"name": "adamw", "weightDecay": 0.1}, [2 * 0.99 - 0.1, (2 * 0.99 - 0.1) * 0.99 - 0.1], id="adamw with decay"
    ),
    # Biases take plain steps, without decay.
    pytest.param({"name": "lars", "momentum": 0, "weightDecay": 0.1}, [1.95, 1.9], id="lars on a bias"),
    pytest.param({"name": "lamb", "weightDecay": 0.1}, [1.9, 1.8], id="lamb on a bias"),
    # ||w|| = 2, ||g|| + b ||w|| = 0.7: the step is 0.1 * 0.5 * 2/0.7 * 0.7.
    pytest.param(
        {"name": "lars", "momentum": 0, "weightDecay": 0.1, "trustCoefficient": 0.5, "excludeBiases": False},
        [1.9, 1.9 - 0.1 * 0.5 * 1.9],
        id="lars with decay",
    ),
    # The direction is 1 + 0.1 w, and its length is replaced by that of w.
    pytest.param(
        {"name": "lamb", "weightDecay": 0.1, "excludeBiases": False}, [2 * 0.9, 2 * 0.9 * 0.9], id="lamb with decay"
    ),
]


def spec_of(**fields: Any) -> OptimizerSpec:
    return OptimizerSpec.model_validate({"learningRate": 0.1, **fields})


@pytest.mark.parametrize(("spec", "expected"), ROWS)
def test_two_steps_are_those_of_the_formula(spec: dict[str, Any], expected: list[float]) -> None:
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = build_optimizer(spec_of(**spec), [weight])
    found = []
    for _ in expected:
        weight.grad = torch.tensor([0.5])
        optimizer.step()
        found.append(weight.item())
    assert found == pytest.approx(expected, rel=1e-5)


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(4, 3), (3,), (2, 2, 3)]
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes]


def take(optimizer: torch.optim.Optimizer, weights: list[torch.nn.Parameter], steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(100 + step)
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        optimizer.step()


# torch's own, by its plain loop over the parameters.
REFERENCES: list[Any] = [
    pytest.param({"name": "sgd", "momentum": 0.9, "nesterov": True, "weightDecay": 0.1}, lambda p: torch.optim.SGD(
        p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1, foreach=False), id="sgd"),
    pytest.param({"name": "adagrad", "weightDecay": 0.1}, lambda p: torch.optim.Adagrad(
        p, lr=0.1, weight_decay=0.1, foreach=False), id="adagrad"),
    pytest.param({"name": "rmsprop", "momentum": 0.9}, lambda p: torch.optim.RMSprop(
        p, lr=0.1, momentum=0.9, foreach=False), id="rmsprop"),
    pytest.param({"name": "adam", "beta1": 0.8, "beta2": 0.95, "weightDecay": 0.1}, lambda p: torch.optim.Adam(
        p, lr=0.1, betas=(0.8, 0.95), weight_decay=0.1, foreach=False), id="adam"),
    pytest.param({"name": "adamw", "epsilon": 1e-3, "weightDecay": 0.1}, lambda p: torch.optim.AdamW(
        p, lr=0.1, eps=1e-3, weight_decay=0.1, foreach=False), id="adamw"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "reference"), REFERENCES)
def test_ten_steps_are_torchs(spec: dict[str, Any], reference: Callable[..., torch.optim.Optimizer]) -> None:
    found, expected = parameters(), parameters()
    take(build_optimizer(spec_of(**spec), found), found, range(10))
    take(reference(expected), expected, range(10))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_lars_is_its_paper_in_plain_numbers() -> None:
    found = parameters()
    optimizer = build_optimizer(spec_of(name="lars", weightDecay=0.01, trustCoefficient=0.02), found)
    weights = [weight.detach().clone() for weight in found]
    averages = [torch.zeros_like(weight) for weight in weights]
    for step in range(5):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = rate = 0.1 / (step + 1)
        take(optimizer, found, range(step, step + 1))
        for weight, average, parameter in zip(weights, averages, found, strict=True):
            gradient = parameter.grad
            assert gradient is not None
            decay = 0.01 if weight.ndim > 1 else 0.0
            ratio = 0.02 * weight.norm() / (gradient.norm() + decay * weight.norm()) if weight.ndim > 1 else 1.0
            average.copy_(0.9 * average + rate * ratio * (gradient + decay * weight))
            weight -= average
    for parameter, weight in zip(found, weights, strict=True):
        torch.testing.assert_close(parameter.detach(), weight, rtol=1e-12, atol=1e-14)


def test_lamb_is_its_paper_in_plain_numbers() -> None:
    found = parameters()
    optimizer = build_optimizer(spec_of(name="lamb", weightDecay=0.01, beta1=0.8, beta2=0.95), found)
    weights = [weight.detach().clone() for weight in found]
    means = [torch.zeros_like(weight) for weight in weights]
    squares = [torch.zeros_like(weight) for weight in weights]
    for step in range(5):
        take(optimizer, found, range(step, step + 1))
        for weight, mean, square, parameter in zip(weights, means, squares, found, strict=True):
            gradient = parameter.grad
            assert gradient is not None
            mean.copy_(0.8 * mean + 0.2 * gradient)
            square.copy_(0.95 * square + 0.05 * gradient**2)
            update = mean / (1 - 0.8 ** (step + 1)) / ((square / (1 - 0.95 ** (step + 1))).sqrt() + 1e-6)
            ratio: torch.Tensor | float = 1.0
            if weight.ndim > 1:
                update = update + 0.01 * weight
                ratio = weight.norm() / update.norm()
            weight -= 0.1 * ratio * update
    for parameter, weight in zip(found, weights, strict=True):
        torch.testing.assert_close(parameter.detach(), weight, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_a_layer_of_zeros_can_leave_zero(name: str) -> None:
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = build_optimizer(spec_of(name=name), [weight])
    weight.grad = torch.ones(2, 2)
    optimizer.step()
    assert (weight < 0).all()


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_a_parameter_without_a_gradient_stays(name: str) -> None:
    weights = parameters()
    before = weights[0].detach().clone()
    optimizer = build_optimizer(spec_of(name=name), weights)
    weights[1].grad = torch.ones_like(weights[1])
    optimizer.step()
    assert torch.equal(weights[0], before)
    assert weights[0] not in optimizer.state


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_parameter_that_joins_later_steps_as_if_it_were_alone(name: str) -> None:
    momentum = {"momentum": 0.9} if name in ("sgd", "rmsprop", "lars") else {}
    weights, alone = parameters()[:2], parameters()[1:2]
    optimizer, other = (build_optimizer(spec_of(name=name, **momentum), held) for held in (weights, alone))
    for step in range(4):
        weights[0].grad = torch.full_like(weights[0], 0.5)
        if step >= 2:
            weights[1].grad = torch.full_like(weights[1], step)
            alone[0].grad = torch.full_like(alone[0], step)
            other.step()
        optimizer.step()
    torch.testing.assert_close(weights[1], alone[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_going_on_from_a_saved_state_is_the_straight_run_bit_for_bit(name: str) -> None:
    momentum = {"momentum": 0.9} if name in ("sgd", "rmsprop", "lars") else {}
    spec = spec_of(name=name, weightDecay=0.01, **momentum)
    straight = parameters()
    take(build_optimizer(spec, straight), straight, range(6))

    first = parameters()
    optimizer = build_optimizer(spec, first)
    take(optimizer, first, range(3))
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    second = [torch.nn.Parameter(weight.detach().clone()) for weight in first]
    resumed = build_optimizer(spec, second)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    take(resumed, second, range(3, 6))
    for one, other in zip(straight, second, strict=True):
        assert torch.equal(one, other)


def test_loading_does_not_take_over_the_choice_of_kernels() -> None:
    one, other = parameters(), parameters()
    saved = build_optimizer(spec_of(name="sgd"), one).state_dict()
    saved["param_groups"][0] |= {"fused": False, "foreach": True, "lr": 0.7}
    optimizer = build_optimizer(spec_of(name="sgd"), other)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["fused"] is True
    assert optimizer.param_groups[0]["lr"] == 0.7


def test_gradient_descent_takes_the_whole_split_for_a_step() -> None:
    def training(name: str) -> TrainingSpec:
        return TrainingSpec.model_validate({"epochs": 1, "batchSize": 64, "optimizer": {"name": name}})

    assert global_batch_size(training("gradient-descent"), 1259) == 1259
    assert global_batch_size(training("sgd"), 1259) == 64


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_under_a_loss_scaler_the_steps_are_the_same_and_one_with_an_overflow_is_left_out(name: str) -> None:
    def trained(*, scaled: bool) -> list[torch.Tensor]:
        weights = [torch.nn.Parameter(torch.full((2, 3), 0.5)), torch.nn.Parameter(torch.zeros(3))]
        optimizer = build_optimizer(spec_of(name=name), weights)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=1024.0)
        for value in (1.0, float("inf"), 2.0) if scaled else (1.0, 2.0):
            optimizer.zero_grad()
            loss = (weights[0] - 3.0).square().sum() + (weights[1] - 3.0).square().sum()
            scaler.scale(loss * value).backward()  # type: ignore[no-untyped-call]
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        return [weight.detach() for weight in weights]

    for one, other in zip(trained(scaled=True), trained(scaled=False), strict=True):
        assert torch.equal(one, other)
