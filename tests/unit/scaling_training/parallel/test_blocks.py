"""Which modules are a model's blocks, and that computing them again saves what it should."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scaling_api.spec import ModelSpec
from scaling_training.models import build_task
from scaling_training.models.dropout import keyed
from scaling_training.models.task import ClassificationTask, Task
from scaling_training.parallel.blocks import repeated_blocks, watching_blocks
from scaling_training.parallel.recompute import recompute_blocks
from tests.unit.scaling_training.parallel.small_models import (
    BUILDERS,
    CLASSES,
    ByMethod,
    Listed,
    Residual,
    a_task,
    watched,
)

# One of each family that a spec may name, with the classes of its blocks.
ARCHITECTURES: Mapping[str, Mapping[str, int]] = {
    "convnext_tiny": {"Conv2dNormActivation": 1, "CNBlock": 18, "Sequential": 3},
    "densenet121": {"Conv2d": 1, "_DenseLayer": 58, "_Transition": 3},
    "efficientnet_b0": {"Conv2dNormActivation": 2, "MBConv": 16},
    "efficientnet_v2_s": {"Conv2dNormActivation": 2, "FusedMBConv": 10, "MBConv": 30},
    "googlenet": {"BasicConv2d": 3, "Inception": 9},
    "inception_v3": {
        **{"BasicConv2d": 5, "InceptionA": 3, "InceptionB": 1, "InceptionC": 4, "InceptionD": 1, "InceptionE": 2}
    },
    "maxvit_t": {"MBConv": 11, "PartitionAttentionLayer": 22},
    "mnasnet1_0": {"Conv2d": 4, "_InvertedResidual": 16},
    "mobilenet_v2": {"Conv2dNormActivation": 2, "InvertedResidual": 17},
    "mobilenet_v3_small": {"Conv2dNormActivation": 2, "InvertedResidual": 11},
    "resnet18": {"BasicBlock": 8},
    "resnet50": {"Bottleneck": 16},
    "resnext50_32x4d": {"Bottleneck": 16},
    "shufflenet_v2_x1_0": {"InvertedResidual": 16},
    "squeezenet1_0": {"Conv2d": 1, "Fire": 8},
    "swin_t": {"Sequential": 1, "SwinTransformerBlock": 12, "PatchMerging": 3},
    "swin_v2_t": {"Sequential": 1, "SwinTransformerBlockV2": 12, "PatchMergingV2": 3},
    "vgg11": {"Sequential": 2},
    "vit_b_16": {"EncoderBlock": 12},
    "vit-tiny": {"Block": 6},
    "wide_resnet50_2": {"Bottleneck": 16},
    "small-cnn": {"Conv2d": 3, "Linear": 2},
}


def on_meta(name: str, side: int = 224) -> Task:
    side = 299 if name == "inception_v3" else 32 if name in ("vit-tiny", "small-cnn") else side
    with torch.device("meta"):
        return build_task(ModelSpec(name=name), input_shape=(3, side, side), classes=10, seed=1)  # type: ignore[arg-type]


def kinds(model: nn.Module) -> Counter[str]:
    return Counter(type(block).__name__ for block in repeated_blocks(model))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_architecture_has_its_blocks(name: str) -> None:
    model = on_meta(name).model
    assert kinds(model) == ARCHITECTURES[name]
    blocks = repeated_blocks(model)
    inside = [module for block in blocks for module in block.modules()]
    assert len(set(inside)) == len(inside), "blocks within blocks"
    in_order = [module for module in model.modules() if module in set(blocks)]
    assert in_order == list(blocks)


@pytest.mark.parametrize("name", sorted(BUILDERS.keys() - {"attention"}))
def test_blocks_hold_no_parameter_twice_and_most_of_them(name: str) -> None:
    model = a_task(name).model
    held = [parameter for block in repeated_blocks(model) for parameter in block.parameters()]
    assert len({id(parameter) for parameter in held}) == len(held) > len(list(model.parameters())) / 2


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.inner(values)
        return output


class Mixture(nn.Module):
    """A block with a row of its own, which is not all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(2))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values


def _tied() -> nn.Module:
    first, last = Residual(2), Residual(2)
    last.first.weight = first.first.weight
    return nn.Sequential(first, Residual(2), last)


def _again() -> nn.Module:
    block = Residual(2)
    return nn.Sequential(block, block, Residual(2))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(Listed(), {"Residual": 3}, id="a ModuleList"),
        pytest.param(Wrapped(Wrapped(Listed())), {"Residual": 3}, id="within wrappers"),
        pytest.param(
            nn.ModuleDict({"a": Residual(2), "b": Residual(2), "c": nn.Linear(2, 2)}),
            {"Residual": 2, "Linear": 1},
            id="a ModuleDict, and what stands beside them",
        ),
        pytest.param(
            nn.Sequential(*(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2)) for _ in range(3))),
            {"Sequential": 3},
            id="plain Sequentials",
        ),
        pytest.param(nn.Sequential(Mixture(), Mixture()), {"Mixture": 2}, id="rows within blocks"),
        pytest.param(
            nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, batch_first=True), 3),
            {"TransformerEncoderLayer": 3},
            id="torch's own",
        ),
        pytest.param(nn.ModuleList([Residual(2), nn.Linear(3, 3)]), {"Residual": 1, "Linear": 1}, id="no repetition"),
        pytest.param(Wrapped(nn.Sequential(nn.Linear(2, 2), nn.ReLU())), {"Linear": 1}, id="a wrapped layer"),
        pytest.param(nn.GRU(4, 4), {}, id="a layer"),
        pytest.param(Wrapped(nn.MultiheadAttention(4, 2)), {}, id="attention, which never runs its projection"),
        pytest.param(_tied(), {"Residual": 1}, id="a parameter of two blocks keeps both in the root"),
        pytest.param(_again(), {"Residual": 2}, id="a block that is run twice"),
    ],
)
def test_blocks_are_found_wherever_they_sit(model: nn.Module, expected: Mapping[str, int]) -> None:
    assert kinds(model) == expected


class Features(nn.Module):
    """The owner of a model calls a method of it, and its blocks run."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = Listed()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        values = self.listed.stem(values)
        for block in self.listed.blocks:
            values = block(values)
        output: torch.Tensor = self.listed.head(values.flatten(1))
        return output


class Shared(nn.Module):
    """What is in its blocks runs without the one of them, after it ran within it."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ByMethod(8) for _ in range(3))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first, second, third = self.blocks
        assert isinstance(first, ByMethod)
        values = third(second(first(images.flatten(1, 2))))
        output: torch.Tensor = self.head(first.part(values).mean(1))
        return output


class Compiled(ByMethod):
    """A block of which the compiler takes all in one."""

    @torch.compile(backend="eager", fullgraph=True)
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values + self.part(values)


def test_what_users_compile_within_a_block_is_left_as_it_is() -> None:
    model = nn.Sequential(*(Compiled(4) for _ in range(2)))
    with watching_blocks(model), torch.no_grad():
        model(torch.zeros(2, 4))
    assert kinds(model) == {"Compiled": 2}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (BUILDERS["methods-called"], [f"backbone.blocks.{number}.inner" for number in range(3)]),
        (BUILDERS["rows-looped"], ["backbone", "head"]),
        (BUILDERS["attention"], []),
        (Features, [f"listed.blocks.{number}" for number in range(3)]),
        (Shared, ["blocks.0.inner", "blocks.1", "blocks.2"]),
    ],
)
def test_only_what_runs_by_its_own_forward_is_a_block(model: Callable[[], nn.Module], expected: Sequence[str]) -> None:
    task = ClassificationTask(model().double(), CLASSES)
    watched(task, "listed")
    names = {module: name for name, module in task.model.named_modules()}
    assert [names[block] for block in repeated_blocks(task.model)] == expected


def test_a_forward_pass_that_fails_tells_nothing_of_the_blocks() -> None:
    model = Listed()
    with pytest.raises(RuntimeError), watching_blocks(model):
        model(torch.zeros(1, 1, 9, 9))
    assert kinds(model) == {"Residual": 3}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_blocks_of_each_architecture_run(name: str) -> None:
    """Nobody watches these models in a run."""
    task = on_meta(name)
    side = 299 if name == "inception_v3" else 32 if name in ("vit-tiny", "small-cnn") else 224
    inputs = torch.empty(2, 3, side, side, device="meta")
    with watching_blocks(task.model), keyed(task.model.train(), torch.arange(2, device="meta")):
        task.model(inputs)
    assert kinds(task.model) == ARCHITECTURES[name]


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors that are alive, and the most that there were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.held:
                    self.held[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata)
        self.peak = max(self.peak, self.now)
        return output

    def _gone(self, storage: int) -> None:
        self.now -= self.held.pop(storage)


def peak_of_a_step(task: Task, *, side: int, samples: int = 16) -> int:
    """Bytes of activations and gradients, at most; without any computation."""
    inputs = torch.empty(samples, 3, side, side, device="meta")
    live = Live()
    with keyed(task.model.train(), torch.arange(samples, device="meta")), live:
        task.model(inputs).sum().backward()
    return live.peak


@pytest.mark.parametrize(
    ("name", "share"),
    # The gradients of the parameters, which stay, are a part of it. Of ResNet's, its stem is as well.
    [
        ("vit_b_16", 0.4),
        ("swin_t", 0.4),
        ("convnext_tiny", 0.4),
        ("efficientnet_b0", 0.35),
        ("resnet50", 0.55),
    ],
)
def test_computing_blocks_again_saves_memory(name: str, share: float) -> None:
    task = on_meta(name)
    plain = peak_of_a_step(task, side=224)
    recompute_blocks(task.model)
    assert peak_of_a_step(task, side=224) < share * plain
