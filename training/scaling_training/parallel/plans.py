"""Which models can be divided along the tensor and pipeline axes, and how: a table of records.

A record recognises its architecture by its modules, not by its name, so that a model with another head or width is
divided as well. It names the role of each layer, and where a pipeline may cut. What FSDP gathers one after the other
needs no record: see `blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from scaling_training.errors import UserError
from scaling_training.models.dropout import KeyedDropout
from scaling_training.models.vision_transformer import VisionTransformer
from scaling_training.parallel.roles import Plan, Role


@dataclass(frozen=True, slots=True)
class Cut:
    """A model as a pipeline takes it: ``enter``, the blocks one after the other, ``leave``.

    The names are those of the model's own attributes: what only the first and only the last stage need (modules and
    parameters), and the methods that use them.
    """

    blocks: nn.ModuleList
    enter: str
    leave: str
    first: Sequence[str]
    last: Sequence[str]


@dataclass(frozen=True, slots=True)
class Architecture:
    """How a kind of model is divided.

    ``roles`` takes the model and the tensor axis' size; UserError when the size does not fit. ``cut`` is None for
    what has no blocks of one kind to cut between, or keeps statistics of whole batches.
    """

    name: str
    fits: Callable[[nn.Module], bool] = field(repr=False)
    roles: Callable[[nn.Module, int], Plan] = field(repr=False)
    cut: Callable[[nn.Module], Cut | None] = field(default=lambda model: None, repr=False)


def architecture_of(model: nn.Module) -> Architecture | None:
    """The record that the model fits; None when it can be replicated and sharded whole, but not divided."""
    return next((record for record in ARCHITECTURES if record.fits(model)), None)


def tensor_plan(model: nn.Module, ranks: int, *, name: str) -> Plan:
    """The roles of the model's layers for a tensor axis of so many ranks; UserError when it cannot be divided."""
    record = architecture_of(model)
    plan = record.roles(model, ranks) if record is not None else {}
    if not plan:
        known = ", ".join(known.name for known in ARCHITECTURES)
        raise UserError(
            f"training.parallelism.tensor {ranks}: the layers of model {name} are not of a kind that can be divided "
            f"({known}); use parallelism.data or fsdp"
        )
    return plan


def pipeline_cut(model: nn.Module, stages: int, *, name: str) -> Cut:
    """Where to cut the model into so many stages; UserError when it cannot be cut, or has fewer blocks."""
    record = architecture_of(model)
    cut = record.cut(model) if record is not None else None
    if cut is None:
        raise UserError(
            f"training.parallelism.pipeline {stages}: model {name} is no chain of like blocks that can be cut into "
            f"stages; take model vit-tiny, or parallelism.data, fsdp or tensor"
        )
    if len(cut.blocks) < stages:
        raise UserError(
            f"training.parallelism.pipeline {stages} is more than the {len(cut.blocks)} blocks of model {name}; each "
            f"stage needs one, so make it at most {len(cut.blocks)}"
        )
    return cut


# --- A chain of layers -----------------------------------------------------------------------------------------------

# What treats each channel alone, so that a slice of the channels passes through it.
_PER_CHANNEL = (nn.ReLU, nn.ReLU6, nn.GELU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity)


def _is_chain(model: nn.Module) -> bool:
    known = (nn.Conv2d, nn.Linear, _BatchNorm, *_PER_CHANNEL)
    return isinstance(model, nn.Sequential) and all(
        isinstance(layer, (*known, nn.Dropout, KeyedDropout)) for layer in model
    )


def _chain_roles(model: nn.Module, ranks: int) -> Plan:
    """Pairs of a column and the row after it; a last layer without a partner, such as the head, stays whole."""
    assert isinstance(model, nn.Sequential)
    plan: dict[str, Role] = {}
    pair: dict[str, Role] = {}
    for path, layer in model.named_children():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            grouped = isinstance(layer, nn.Conv2d) and layer.groups > 1
            if pair and not grouped:
                plan |= pair | {path: Role.ROW}
                pair = {}
            elif not grouped:
                pair = {path: Role.COLUMN}
        elif pair and isinstance(layer, _BatchNorm):
            pair[path] = Role.LOCAL
        elif not isinstance(layer, _PER_CHANNEL):
            # Dropout draws for whole samples: it stays outside of a pair.
            pair = {}
    return plan


# --- MobileNetV2 -----------------------------------------------------------------------------------------------------


def _is_mobilenet(model: nn.Module) -> bool:
    from torchvision.models import MobileNetV2

    return isinstance(model, MobileNetV2)


def _mobilenet_roles(model: nn.Module, ranks: int) -> Plan:
    """Each inverted residual: expand is a column, depthwise and batch norms are local, project is a row.

    The stem and the first block, which expands nothing, are small and stay whole. The last convolution is a column;
    its pooled features are gathered for the classifier.
    """
    from torchvision.models.mobilenetv2 import InvertedResidual

    features = model.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    plan: dict[str, Role] = {}
    for name, block in features.named_children():
        if not isinstance(block, InvertedResidual) or len(block.conv) < 4:
            continue
        at = f"features.{name}.conv"
        plan |= {
            f"{at}.0.0": Role.COLUMN,
            f"{at}.0.1": Role.LOCAL,
            f"{at}.1.0": Role.LOCAL,
            f"{at}.1.1": Role.LOCAL,
            f"{at}.2": Role.ROW,
        }
    last = f"features.{len(features) - 1}"
    return plan | {f"{last}.0": Role.COLUMN, f"{last}.1": Role.LOCAL, "classifier": Role.GATHER}


# --- Transformer -----------------------------------------------------------------------------------------------------

_INPUTS, _OUTPUT = ("attention.query", "attention.key", "attention.value"), "attention.output"
_UP, _DOWN = "mlp.up", "mlp.down"


def _is_transformer(model: nn.Module) -> bool:
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, (nn.ModuleList, nn.Sequential)) or not len(blocks):
        return False
    paths = {path for path, _ in blocks[0].named_modules()}
    return paths.issuperset((*_INPUTS, _OUTPUT, _UP, _DOWN))


def _transformer_roles(model: nn.Module, ranks: int) -> Plan:
    """Whole attention heads and slices of the hidden layer (Megatron-LM, arXiv:1909.08053)."""
    plan: dict[str, Role] = {}
    for name, block in _blocks_by_path(model):
        query = block.get_submodule(_INPUTS[0])
        assert isinstance(query, nn.Linear)
        head_size = block.get_submodule("attention").head_size
        assert isinstance(head_size, int)
        heads = query.out_features // head_size
        if heads % ranks:
            raise UserError(
                f"training.parallelism.tensor {ranks} does not divide the {heads} attention heads of the model; "
                f"choose a divisor of {heads}"
            )
        plan |= {f"{name}.attention": Role.ENTER, f"{name}.{_UP}": Role.COLUMN}
        plan |= {f"{name}.{path}": Role.INNER for path in _INPUTS}
        plan |= {f"{name}.{path}": Role.ROW for path in (_OUTPUT, _DOWN)}
    return plan


def _blocks_by_path(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, block in model.get_submodule("blocks").named_children():
        yield f"blocks.{name}", block


def _transformer_cut(model: nn.Module) -> Cut | None:
    # A pipeline fills up micro-batches, which statistics of a batch would count.
    if not isinstance(model, VisionTransformer) or any(isinstance(module, _BatchNorm) for module in model.modules()):
        return None
    return Cut(model.blocks, "embed", "classify", first=("patches", "positions", "dropout"), last=("norm", "head"))


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("chains of convolutions and linear layers", _is_chain, _chain_roles),
    Architecture("MobileNetV2", _is_mobilenet, _mobilenet_roles),
    Architecture(
        "transformers of attention and mlp blocks",
        _is_transformer,
        _transformer_roles,
        _transformer_cut,
    ),
)
