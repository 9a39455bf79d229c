from __future__ import annotations

import pytest
import torch

from scaling_api.spec import ScalingJobSpec
from scaling_training.models.task import ClassificationTask
from scaling_training.parallel.blocks import repeated_blocks
from scaling_training.train import World, preload
from scaling_training.train.setup import set_up
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.parallel.small_models import MethodsCalled, OnRows


def test_nothing_is_imported_in_the_background_any_more_when_kernels_are_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch.use_deterministic_algorithms imports its compiler, whose modules the background may have half made."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    order: list[object] = []
    wait = preload.wait

    def waited(modules: tuple[str, ...]) -> None:
        wait(modules)
        order.append(modules)

    monkeypatch.setattr(preload, "wait", waited)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode: order.append("deterministic"))
    set_up(a_spec(deterministic=True), World(0, 1, torch.device("cpu")))
    assert order == [preload.OPTIMIZER_MODULES, "deterministic"]


def methods_called(classes: int) -> ClassificationTask:
    return ClassificationTask(OnRows(MethodsCalled(), classes=classes), classes)


def test_a_model_of_the_users_own_is_divided_into_what_runs() -> None:
    spec = a_spec().model_dump(by_alias=True, exclude_none=True)
    spec["model"] = {"factory": f"{__name__}:methods_called"}
    setup = set_up(ScalingJobSpec.model_validate(spec), World(0, 1, torch.device("cpu")))
    names = {module: name for name, module in setup.task.model.named_modules()}
    assert [names[block] for block in repeated_blocks(setup.task.model)] == [
        f"backbone.blocks.{number}.inner" for number in range(3)
    ]
