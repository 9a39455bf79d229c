from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from scaling_api.spec import FreezeSpec, ModelSpec
from scaling_training.errors import UserError
from scaling_training.models import build_task
from scaling_training.models.freeze import apply_freeze, changes_at, check_freeze, frozen_at
from scaling_training.models.task import ClassificationTask

_NAMES = ("features.0.weight", "features.1.weight", "features.10.weight", "head.weight", "header.weight")


def stages(*entries: dict[str, Any]) -> list[FreezeSpec]:
    return [FreezeSpec.model_validate(entry) for entry in entries]


def frozen(entries: list[FreezeSpec], epoch: int) -> list[str]:
    return list(filter(frozen_at(entries, epoch, head="head"), _NAMES))


def test_the_backbone_is_everything_but_the_head() -> None:
    assert frozen(stages({}), 100) == [*_NAMES[:3], "header.weight"]


def test_layers_are_named_by_whole_parts() -> None:
    assert frozen(stages({"layers": "features.1"}), 0) == ["features.1.weight"]


@pytest.mark.parametrize(
    ("epoch", "count", "changes"), [(0, 4, True), (1, 4, False), (2, 1, True), (3, 1, False), (4, 0, True)]
)
def test_stages_end_one_after_the_other(epoch: int, count: int, changes: bool) -> None:
    plan = stages({"untilEpoch": 2}, {"layers": "features.0", "untilEpoch": 4})
    assert len(frozen(plan, epoch)) == count
    assert changes_at(plan, epoch) is changes


def test_wrapped_names_are_seen_through() -> None:
    assert frozen_at(stages({"layers": "a.b"}), 0, head="")("_orig_mod.a._checkpoint_wrapped_module.b.weight")


def test_nothing_is_frozen_without_stages() -> None:
    assert frozen([], 0) == []
    assert not changes_at([], 0)


def a_task() -> ClassificationTask:
    layers = [nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)]
    return ClassificationTask(nn.Sequential(*layers), 2, head="4")


def step(task: ClassificationTask, optimizer: torch.optim.Optimizer) -> set[str]:
    """The names of the tensors, buffers included, that a step moved."""
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    optimizer.zero_grad()
    task.model(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    return {name for name, value in task.model.state_dict().items() if not torch.equal(value, before[name])}


def test_frozen_layers_do_not_move_and_then_do() -> None:
    task = a_task()
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=0.1, weight_decay=0.1)
    plan = stages({"untilEpoch": 2}, {"layers": "1", "untilEpoch": 4})
    everything = set(task.model.state_dict())
    of_norm = {name for name in everything if name.startswith("1.")}

    apply_freeze(task, plan, 0)
    assert step(task, optimizer) == {"4.weight", "4.bias"}
    task.model.train()
    apply_freeze(task, plan, 2)
    assert step(task, optimizer) == everything - of_norm
    apply_freeze(task, plan, 4)
    assert step(task, optimizer) == everything


def test_the_frozen_norm_keeps_still_after_a_return_to_training_mode() -> None:
    task = a_task()
    plan = stages({})
    apply_freeze(task, plan, 0)
    task.model.eval().train()
    apply_freeze(task, plan, 0)
    norm = task.model.get_submodule("1")
    assert not norm.training
    assert task.model.training


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (
            {"layers": "featurs"},
            r"model.freeze\[0\].layers featurs: .* its outermost layers are features, head, header",
        ),
        ({"layers": "features"}, None),
    ],
)
def test_layers_must_be_there(entry: dict[str, Any], sentence: str | None) -> None:
    if sentence is None:
        check_freeze(stages(entry), _NAMES, head="head")
        return
    with pytest.raises(UserError, match=sentence):
        check_freeze(stages(entry), _NAMES, head="head")


def test_something_must_be_left_to_train_in_every_epoch() -> None:
    plan = stages({}, {"layers": "head", "untilEpoch": 3})
    with pytest.raises(UserError, match="nothing is left to train in epoch 1"):
        check_freeze(plan, _NAMES, head="head")


def test_a_backbone_needs_a_known_head() -> None:
    with pytest.raises(UserError, match="does not say what its head is"):
        check_freeze(stages({}), _NAMES, head="")


def test_the_models_are_checked_when_built() -> None:
    spec = ModelSpec(name="small-cnn", freeze=stages({"layers": "nowhere"}))
    with pytest.raises(UserError, match="nowhere: the model has no parameters of this name"):
        build_task(spec, input_shape=(1, 8, 8), classes=2, seed=0)
