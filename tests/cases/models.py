"""What is refused and accepted in the sections model and code."""

from __future__ import annotations

from tests.cases.case import Case, Change, put

_MODEL = "spec.model"
_FACTORY = "my_package.models:build"


def _model(**fields: object) -> Change:
    return put(_MODEL, fields)


def _named(**fields: object) -> Change:
    return _model(name="mobilenet_v2", **fields)


RULES = (
    Case("model without name and factory", _model(width=1), _MODEL, "model needs exactly one of name", True),
    Case("model with name and factory", _named(factory=_FACTORY), _MODEL, "model needs exactly one of name", True),
    Case(
        "arguments without a factory",
        _named(arguments={"depth": 3}),
        f"{_MODEL}.arguments",
        "arguments are those of a factory",
        True,
    ),
    Case(
        "width of a factory's model",
        _model(factory=_FACTORY, width=0.5),
        f"{_MODEL}.factory",
        "width and head belong to a model by name",
        True,
    ),
    Case(
        "head of a factory's model",
        _model(factory=_FACTORY, head="pooled"),
        f"{_MODEL}.factory",
        "width and head belong to a model by name",
        True,
    ),
    Case(
        "torchvision's weights for our own model",
        _model(name="small-cnn", weights={"name": "IMAGENET1K_V1"}),
        f"{_MODEL}.weights.name",
        "weights.name means torchvision's weights of a torchvision model",
        True,
    ),
    Case(
        "torchvision's weights for a factory's model",
        _model(factory=_FACTORY, weights={"name": "IMAGENET1K_V1"}),
        f"{_MODEL}.weights.name",
        "weights.name means torchvision's weights of a torchvision model",
        True,
    ),
    Case("weights of nowhere", _named(weights={}), f"{_MODEL}.weights", "exactly one of name", True),
    Case(
        "weights of two places",
        _named(weights={"name": "DEFAULT", "uri": "/w.safetensors"}),
        f"{_MODEL}.weights",
        "exactly one of name",
        True,
    ),
    Case(
        "digest of named weights",
        _named(weights={"name": "DEFAULT", "sha256": "a" * 64}),
        f"{_MODEL}.weights.sha256",
        "sha256 goes with uri",
        True,
    ),
    Case(
        "weights' name in small letters",
        _named(weights={"name": "imagenet"}),
        f"{_MODEL}.weights.name",
        '"imagenet" is not a name of torchvision\'s weights',
        True,
    ),
    Case(
        "weights with a password",
        _named(weights={"uri": "s3://me:secret@bucket/w.pt"}),
        f"{_MODEL}.weights.uri",
        "is not a place of files",
        True,
    ),
    Case(
        "digest in capitals",
        put("spec.code", {"uri": "/code", "sha256": "A" * 64}),
        "spec.code.sha256",
        "is not a SHA-256",
        True,
    ),
    Case(
        "code at an address with a blank",
        put("spec.code", {"uri": "s3://my code/a.py"}),
        "spec.code.uri",
        "is not a place",
        True,
    ),
    Case(
        "factory without a module", _model(factory="build"), f"{_MODEL}.factory", "write package.module:function", True
    ),
    Case(
        "frozen layers with a star",
        _named(freeze=[{"layers": "features.*"}]),
        f"{_MODEL}.freeze[0].layers",
        '"features.*" is not the name of layers',
        True,
    ),
)

BOUNDS = (
    Case("code of nowhere", put("spec.code", {}), "spec.code.uri", "is required"),
    Case("head of another kind", _named(head="attention"), f"{_MODEL}.head", "allowed: pooled, flatten"),
    Case("dropout of everything", _named(dropout=1), f"{_MODEL}.dropout", "must be below 1"),
    Case("negative dropout", _named(dropout=-1), f"{_MODEL}.dropout", "must be at least 0"),
    Case("frozen until epoch 0", _named(freeze=[{"untilEpoch": 0}]), f"{_MODEL}.freeze[0].untilEpoch", "at least 1"),
    Case("too many stages of freezing", _named(freeze=[{}] * 17), f"{_MODEL}.freeze", "at most 16 items"),
    Case("short digest", put("spec.code", {"uri": "/code", "sha256": "ab"}), "spec.code.sha256", "at least 64"),
    Case("text for arguments", _model(factory=_FACTORY, arguments="x"), f"{_MODEL}.arguments", "mapping of fields"),
)

ACCEPTED = (
    ("a torchvision model", _named(width=0.5, dropout=0)),
    ("a flattened head", _named(head="flatten")),
    ("named weights", _named(weights={"name": "IMAGENET1K_V2"})),
    ("weights in a file", _named(weights={"uri": "s3://bucket/w.safetensors", "sha256": "0" * 64})),
    ("staged unfreezing", _named(freeze=[{"untilEpoch": 2}, {"layers": "features.0", "untilEpoch": 4}])),
    ("a factory", _model(factory=_FACTORY, arguments={"depth": 3, "names": ["a", None], "deep": {"x": None}})),
    ("a factory's weights", _model(factory=_FACTORY, weights={"uri": "/data/w.pt"})),
    ("code of the user's", put("spec.code", {"uri": "/code/models.py"})),
    ("code in a folder with a blank", put("spec.code", {"uri": "~/my code/models.py"})),
)
