from __future__ import annotations

from typing import Any

import pytest
import torch

from scaling_api.spec import OptimizerSpec
from scaling_training.optim import build_optimizer

# One weight of 2 with gradient 0.5, twice.
ROWS = [
    pytest.param({"name": "sgd"}, [2 - 0.1 * 0.5, 2 - 0.1 * 1.0], id="sgd"),
    pytest.param({"name": "sgd", "momentum": 0.9}, [1.95, 1.95 - 0.1 * (0.9 * 0.5 + 0.5)], id="sgd with momentum"),
    pytest.param({"name": "sgd", "weightDecay": 0.1}, [2 - 0.1 * 0.7, 1.93 - 0.1 * (0.5 + 0.193)], id="sgd with decay"),
    # With a constant gradient Adam's corrected ratio is 1 at every step.
    pytest.param({"name": "adam"}, [1.9, 1.8], id="adam"),
    pytest.param(
        {"name": "adamw", "weightDecay": 0.1}, [2 * 0.99 - 0.1, (2 * 0.99 - 0.1) * 0.99 - 0.1], id="adamw with decay"
    ),
]


@pytest.mark.parametrize(("spec", "expected"), ROWS)
def test_two_steps_are_those_of_the_formula(spec: dict[str, Any], expected: list[float]) -> None:
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = build_optimizer(OptimizerSpec.model_validate({"learningRate": 0.1, **spec}), [weight])
    found = []
    for _ in expected:
        weight.grad = torch.tensor([0.5])
        optimizer.step()
        found.append(weight.item())
    assert found == pytest.approx(expected, rel=1e-5)
