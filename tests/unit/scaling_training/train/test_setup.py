from __future__ import annotations

import pytest
import torch

from scaling_training.train import World, preload
from scaling_training.train.setup import set_up
from tests.unit.scaling_training.builders import a_spec


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
