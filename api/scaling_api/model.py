"""The section that says which network is trained."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from scaling_api.base import Model, Rule
from scaling_api.code import Arguments, FactoryPath, Place, Sha256
from scaling_api.constraints import Pattern

OwnName = Literal["small-cnn", "mnist-cnn", "vit-tiny"]
# torchvision's classification models by torchvision's names; a test compares the list with the library.
TorchvisionName = Literal[
    "alexnet",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mnasnet0_75",
    "mnasnet1_0",
    "mnasnet1_3",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "regnet_x_16gf",
    "regnet_x_1_6gf",
    "regnet_x_32gf",
    "regnet_x_3_2gf",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_x_8gf",
    "regnet_y_128gf",
    "regnet_y_16gf",
    "regnet_y_1_6gf",
    "regnet_y_32gf",
    "regnet_y_3_2gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "regnet_y_8gf",
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "squeezenet1_0",
    "squeezenet1_1",
    "swin_b",
    "swin_s",
    "swin_t",
    "swin_v2_b",
    "swin_v2_s",
    "swin_v2_t",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "vit_b_16",
    "vit_b_32",
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
    "wide_resnet101_2",
    "wide_resnet50_2",
]

ModelName = Literal[OwnName, TorchvisionName]

_WEIGHTS = Pattern(r"[A-Z][A-Z0-9_]*", "a name of torchvision's weights: write e.g. IMAGENET1K_V1 or DEFAULT")
_LAYERS = Pattern(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", "the name of layers: write backbone, or e.g. features.0")


class WeightsSpec(Model):
    """Weights to start from. A head of other shape keeps its new weights."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64), _WEIGHTS] | None = Field(
        None,
        description="Weights that torchvision offers for the model, e.g. IMAGENET1K_V2; loaded from its cache "
        "($TORCH_HOME/hub/checkpoints) or over the network.",
    )
    uri: Place | None = Field(
        None,
        description="A file of tensors by name: .safetensors, or one written by torch.save that holds only tensors. "
        "A path that every pod has, or an address such as s3://bucket/file.",
    )
    sha256: Sha256 | None = Field(None, description="Of the file; another content is then refused.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.name) != has(self.uri)",
            lambda self: (self.name is None) != (self.uri is None),
            "weights need exactly one of name (torchvision's) and uri (a file)",
            field="",
        ),
        Rule(
            "!has(self.sha256) || has(self.uri)",
            lambda self: self.sha256 is None or self.uri is not None,
            "sha256 goes with uri; torchvision's weights carry their own",
            field="sha256",
        ),
    )


class FreezeSpec(Model):
    """Layers whose weights stay as they are, with their batch norm's statistics."""

    layers: Annotated[str, StringConstraints(min_length=1, max_length=128), _LAYERS] = Field(
        "backbone",
        description="backbone: everything but the head that gives the classes. Else the beginning of the layers' "
        "names, in whole parts: features.0 means features.0.weight and not features.01.weight.",
    )
    until_epoch: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="Number of first epochs in which they are frozen; all epochs when absent."
    )


class ModelSpec(Model):
    """The network to train."""

    name: ModelName | None = Field(
        None,
        description="small-cnn: convolutions of 32, 64 and 128 channels with batch norm, a dense layer of 512. "
        "mnist-cnn: a convolution of 32 channels, a dense layer of 128. vit-tiny: a vision transformer for small "
        "images. Others: torchvision's.",
    )
    factory: FactoryPath | None = Field(
        None, description="Instead of a name: package.module:function of the user's that returns a task."
    )
    arguments: Arguments | None = Field(None, description="Arguments of the factory.")
    width: Annotated[float, Field(gt=0, le=8)] = Field(
        1.0, description="Multiplier of all channel counts, at least 0.125. Not every architecture has one."
    )
    head: Literal["pooled", "flatten"] | None = Field(
        None,
        description="How the last feature map reaches the dense layers: its mean over the image, or all of it. "
        "Absent: as the architecture has it.",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="Probability of every dropout layer; as the architecture has it when absent."
    )
    weights: WeightsSpec | None = Field(None, description="Weights to start from; random ones when absent.")
    freeze: Annotated[list[FreezeSpec], Field(max_length=16)] = Field(
        default_factory=list, description="Layers to keep as they are, each for some or all epochs."
    )

    @property
    def title(self) -> str:
        """What to call the model in a sentence: its name, or its factory's."""
        return str(self.name or self.factory)

    rules: ClassVar[tuple[Rule, ...]] = (
        # A rule, because the API server cuts a fractional lower bound down to a whole number.
        Rule(
            "self.width >= 0.125",
            lambda self: self.width >= 0.125,
            "width {width} leaves too few channels; make it at least 0.125",
            field="width",
        ),
        Rule(
            "has(self.name) != has(self.factory)",
            lambda self: (self.name is None) != (self.factory is None),
            "model needs exactly one of name (a network that is known here) and factory (a function of yours)",
            field="",
        ),
        Rule(
            "!has(self.arguments) || has(self.factory)",
            lambda self: self.arguments is None or self.factory is not None,
            "arguments are those of a factory; name one, or remove them",
            field="arguments",
        ),
        Rule(
            "has(self.name) || (self.width == 1.0 && !has(self.head))",
            lambda self: self.name is not None or (self.width == 1 and self.head is None),
            "width and head belong to a model by name; give a factory such things as arguments",
            field="factory",
        ),
        Rule(
            "!has(self.weights) || !has(self.weights.name) || "
            "(has(self.name) && !(self.name in ['small-cnn', 'mnist-cnn', 'vit-tiny']))",
            lambda self: (
                self.weights is None
                or self.weights.name is None
                or self.name not in (None, "small-cnn", "mnist-cnn", "vit-tiny")
            ),
            "weights.name means torchvision's weights of a torchvision model; give a file by weights.uri",
            field="weights.name",
        ),
    )
