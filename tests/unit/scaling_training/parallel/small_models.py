"""Models small enough that many meshes can be compared in a few seconds, and their batches."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn

from scaling_api.spec import ModelSpec
from scaling_training.data.batches import Batch
from scaling_training.models import mnist_cnn, small_cnn
from scaling_training.models.dropout import keyed, replace_dropout
from scaling_training.models.task import ClassificationTask
from scaling_training.models.user import check_task
from scaling_training.models.vision_transformer import VisionTransformer
from scaling_training.parallel.blocks import watching_blocks

CLASSES = 6


def _small_cnn() -> nn.Module:
    return small_cnn.build(ModelSpec(name="small-cnn", width=0.125), (1, 8, 8), CLASSES)


def _mnist_cnn() -> nn.Module:
    return mnist_cnn.build(ModelSpec(name="mnist-cnn", width=0.25), (1, 8, 8), CLASSES)


def _transformer(blocks: int = 2) -> nn.Module:
    model = VisionTransformer((1, 8, 8), CLASSES, patch=4, heads=4, flatten=False)
    model.blocks = model.blocks[:blocks]
    return model


def _deep_transformer() -> nn.Module:
    return _transformer(3)


def _mobilenet() -> nn.Module:
    from torchvision.models import MobileNetV2

    # The shape of the network with fewer blocks; t, c, n, s as in the paper's table.
    settings = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]]
    model: nn.Module = MobileNetV2(CLASSES, width_mult=0.25, inverted_residual_setting=settings, dropout=0.0)
    stem = model.get_submodule("features.0")
    assert isinstance(stem, nn.Sequential)
    assert isinstance(stem[0], nn.Conv2d)
    stem[0] = nn.Conv2d(1, stem[0].out_channels, 3, 2, 1, bias=False)
    return model


class Residual(nn.Module):
    """A block as people write it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = values + self.second(nn.functional.gelu(self.first(values)))
        return output


class Listed(nn.Module):
    """Its blocks sit in a ModuleList, which has no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.ModuleList(Residual(4) for _ in range(3))
        self.head = nn.Linear(4 * 64, CLASSES)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        values = self.stem(values)
        for block in self.blocks:
            values = block(values)
        output: torch.Tensor = self.head(values.flatten(1))
        return output


class ByMethod(nn.Module):
    """A block whose owner calls its method, so that its forward never runs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def part(self, values: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.inner(values)
        return output

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values + self.part(values)


class MethodsCalled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ByMethod(8) for _ in range(3))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            assert isinstance(block, ByMethod)
            values = values + block.part(values)
        return values


class RowsLooped(nn.Module):
    """Rows alike, of which the owner runs the layers one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.LayerNorm(8)) for _ in range(3)
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for row in self.rows:
            for layer in row.children():
                values = layer(values)
        return values


class Attention(nn.Module):
    """Its only layer is torch's attention, which never runs the projection that it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.norm(values + self.attention(values, values, values, need_weights=False)[0])
        return output


class OnRows(nn.Module):
    """Scores of what a backbone makes of an image's rows."""

    def __init__(self, backbone: nn.Module, *, classes: int = CLASSES, head: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(8, classes) if head else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.backbone(images.flatten(1, 2)).mean(1)
        return self.head(values) if self.head is not None else values[:, :CLASSES]


def _methods_called() -> nn.Module:
    return OnRows(MethodsCalled())


def _rows_looped() -> nn.Module:
    return OnRows(RowsLooped())


def _attention() -> nn.Module:
    return OnRows(Attention(), head=False)


def _swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    blocks, heads = [1, 2], [1, 2]
    model: nn.Module = SwinTransformer([2, 2], 8, blocks, heads, [2, 2], stochastic_depth_prob=0.5, num_classes=CLASSES)
    model.get_submodule("features.0").register_module("0", nn.Conv2d(1, 8, 2, 2))
    return model


# Models as users write them, which a run watches before it lays them over a mesh.
OWN = {"methods-called": _methods_called, "rows-looped": _rows_looped, "attention": _attention}
BUILDERS = {
    "listed": Listed,
    "swin": _swin,
    "small-cnn": _small_cnn,
    "mnist-cnn": _mnist_cnn,
    "mobilenet": _mobilenet,
    "transformer": _transformer,
    "deep-transformer": _deep_transformer,
    **OWN,
}
SIDES = dict.fromkeys(BUILDERS, 8) | {"mobilenet": 16}


def a_task(name: str, dtype: torch.dtype = torch.float64) -> ClassificationTask:
    """The task of a small model, with the same weights at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = BUILDERS[name]().to(dtype).train()
    replace_dropout(model)
    return ClassificationTask(model, CLASSES)


def watched(task: ClassificationTask, name: str) -> None:
    """As a run does with a model of the user's own."""
    batch = a_batch(name, 2, 0, next(task.model.parameters()).dtype)
    with watching_blocks(task.model):
        check_task(task, batch, classes=CLASSES)


def a_batch(name: str, samples: int, step: int, dtype: torch.dtype = torch.float64) -> Batch:
    """The step's global batch."""
    generator = torch.Generator().manual_seed(100 + step)
    side = SIDES[name]
    images = torch.randn(samples, 1, side, side, generator=generator, dtype=torch.float64).to(dtype)
    return Batch(images, torch.randint(CLASSES, (samples,), generator=generator), torch.arange(samples))


def dropout(model: nn.Module, batch: Batch) -> AbstractContextManager[None]:
    """Within it the model's dropout is that of these samples."""
    return keyed(model, batch.keys)
