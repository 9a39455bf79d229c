from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from scaling_api.spec import ModelSpec
from scaling_training.models import build_task
from scaling_training.models.dropout import keyed
from scaling_training.models.task import Task
from scaling_training.parallel.recompute import recompute_blocks
from tests.unit.scaling_training.builders import a_batch


def task_of(name: str) -> Task:
    fixed = name in ("vit-tiny", "efficientnet_b0")
    spec = ModelSpec.model_validate({"name": name, **({} if fixed else {"width": 0.25})})
    return build_task(spec, input_shape=(3, 32, 32), classes=10, seed=1)


def trained(task: Task, steps: int = 2) -> dict[str, torch.Tensor]:
    """Gradients of the last step, and the weights and statistics after it."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
    for _ in range(steps):
        batch = a_batch(torch.randn(8, 3, 32, 32, generator=generator), torch.randint(10, (8,), generator=generator))
        optimizer.zero_grad()
        with keyed(task.model, batch.keys):
            task.loss_sum(task.model(*task.inputs(batch)), batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    gradients = {f"{n}.grad": p.grad for n, p in task.model.named_parameters() if p.grad is not None}
    return {name: value.clone() for name, value in (gradients | task.model.state_dict()).items()}


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "vit-tiny", "vit_b_16", "convnext_tiny", "efficientnet_b0", "densenet121"]
)
def test_what_is_computed_again_is_what_was_computed(name: str) -> None:
    plain = task_of(name)
    again = copy.deepcopy(plain)
    recompute_blocks(again.model)
    expected, found = trained(plain), trained(again)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def kept_bytes(model: nn.Module, inputs: torch.Tensor) -> int:
    """Bytes that autograd keeps of a forward pass, besides the parameters."""
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in parameters:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, keyed(model, torch.arange(len(inputs))):
        output = model(inputs)
    assert output.requires_grad
    return sum(kept.values())


def test_less_is_kept() -> None:
    plain = task_of("vit-tiny")
    again = copy.deepcopy(plain)
    recompute_blocks(again.model)
    inputs = torch.randn(8, 3, 32, 32)
    assert kept_bytes(again.model, inputs) < kept_bytes(plain.model, inputs) / 2


def test_an_evaluation_is_left_alone() -> None:
    task = task_of("mobilenet_v2")
    task.model.eval()
    inputs = torch.randn(2, 3, 32, 32)
    before = task.model(inputs)
    recompute_blocks(task.model)
    assert torch.equal(task.model(inputs), before)
