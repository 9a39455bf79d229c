from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from scaling_api.spec import ScalingJobSpec
from scaling_training.models.pooling import SteadyPool, steady_pooling
from scaling_training.models.task import ClassificationTask
from scaling_training.train import World
from scaling_training.train.setup import set_up
from tests.unit.scaling_training.worlds import in_world


@pytest.mark.parametrize("size", [7, 1, (6, 2), (None, 3)])
@pytest.mark.parametrize("shape", [(2, 3, 7, 7), (2, 3, 1, 1), (3, 13, 5), (2, 3, 16, 9)])
def test_it_pools_as_torch_does(size: Any, shape: tuple[int, ...]) -> None:
    ours, theirs = (torch.randn(shape, generator=torch.Generator().manual_seed(1)).double() for _ in range(2))
    found, expected = SteadyPool(size)(ours.requires_grad_()), nn.AdaptiveAvgPool2d(size)(theirs.requires_grad_())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2)).double()
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


class Called(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The names of the operators that are dispatched."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["alexnet", "vgg11"])
def test_what_torch_refuses_on_gpus_is_not_called(name: str) -> None:
    from torchvision import models

    with torch.device("meta"):
        model = models.get_model_builder(name)()
        images = torch.empty(2, 3, 64, 64)
        refused = "aten::_adaptive_avg_pool2d_backward"
        for steady in (False, True):
            if steady:
                steady_pooling(model)
            with Called() as called:
                model(images).sum().backward()
            assert (refused in called.names) == (not steady)


def pooled(input_shape: tuple[int, int, int], classes: int) -> ClassificationTask:
    """A factory."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * input_shape[0], classes))
    return ClassificationTask(model, classes)


def _pools(world: World) -> dict[bool, list[str]]:
    """The pooling layers of a run, by whether it is deterministic."""
    found = {}
    for deterministic in (False, True):
        spec = ScalingJobSpec.model_validate(
            {
                "model": {"factory": f"{__name__}:{pooled.__name__}"},
                "dataset": {"name": "synthetic", "samples": 100, "classes": 3, "imageSize": 8},
                "training": {"epochs": 1, "batchSize": 20, "deterministic": deterministic},
            }
        )
        modules = set_up(spec, world).replica.model.modules()
        found[deterministic] = [type(module).__name__ for module in modules if isinstance(module, nn.AdaptiveAvgPool2d)]
    return found


def test_a_deterministic_run_pools_steadily() -> None:
    # In another process, whose kernels are chosen for good.
    assert in_world(1, _pools) == [{False: ["AdaptiveAvgPool2d"], True: ["SteadyPool"]}]
