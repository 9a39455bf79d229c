"""The CustomResourceDefinition, generated from the models.

Pydantic's JSON Schema is turned into a structural schema as the API server wants it: definitions inlined,
"null" dropped (absent is the only way to say nothing), exclusive bounds in OpenAPI's spelling, unknown
fields pruned instead of forbidden, defaults written out so that the stored object says what will run.
Rules and patterns come along as CEL.
"""

from __future__ import annotations

from typing import Any, cast

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, NoDefault
from pydantic_core import core_schema

from scaling_api.base import Model
from scaling_api.constraints import MAX_INT64, VALIDATIONS
from scaling_api.edits import FROZEN_SENTENCE, FROZEN_WHILE_RUNNING
from scaling_api.scalars import GROUP, JOB_NAME, KIND, MAX_JOB_NAME, PLURAL, VERSION
from scaling_api.spec import ScalingJobSpec
from scaling_api.status import ScalingJobStatus

SHORT_NAME = "sj"
CATEGORIES = ("all", "scaling")

# kubectl's table. Age is added by kubectl itself only where no columns are named.
COLUMNS = (
    ("Status", "string", ".status.phase"),
    ("Stage", "string", ".status.progress.stage"),
    ("Progress", "string", ".status.progress.summary"),
    ("Workers", "string", ".status.workers"),
    ("Score", "string", ".status.objective.summary"),
    ("Age", "date", ".metadata.creationTimestamp"),
)

_KEPT = (
    "type",
    "format",
    "description",
    "enum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "minimum",
    "maximum",
    "anyOf",
    "required",
)


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, with rules, with defaults made by factories, and without null."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        json = super().model_schema(schema)
        rules = cast(type[Model], schema["cls"]).rules
        return {**json, VALIDATIONS: [rule.validation() for rule in rules]} if rules else json

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        if "default_factory" in schema:
            return schema["default_factory"]()  # type: ignore[call-arg]
        return super().get_default_value(schema)

    def encode_default(self, dft: Any) -> Any:
        return _plain(dft)


def _plain(value: Any) -> Any:
    """A default as the CRD carries it, in full: CEL rules are checked against it before nested defaults are
    filled in. An absent list or map means the same as an empty one; leaving it out keeps stored objects short.
    """
    if isinstance(value, Model):
        fields = ((field.alias or name, getattr(value, name)) for name, field in type(value).model_fields.items())
        return {key: _plain(item) for key, item in fields if item is not None and item not in ([], {})}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def schema_of(model: type[Model], *, defaults: bool = True) -> dict[str, Any]:
    """The structural schema of a model. Without ``defaults`` the API server fills nothing in."""
    raw = model.model_json_schema(by_alias=True, schema_generator=_Generator, mode="validation")
    return _structural(raw, raw.get("$defs", {}), defaults=defaults)


def _structural(node: dict[str, Any], definitions: dict[str, Any], *, defaults: bool) -> dict[str, Any]:
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[1]]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    result: dict[str, Any] = {key: node[key] for key in _KEPT if key in node}
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    if "const" in node:
        result["enum"] = [node["const"]]
    for exclusive, inclusive in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in node:
            result |= {inclusive: node[exclusive], exclusive: True}
    if result.get("type") == "integer":
        result["format"] = "int64"
        if result.get("maximum") == MAX_INT64:  # the format says so, and bounds are floats to the API server
            del result["maximum"]
    default = node.get("default", NoDefault)
    is_section = "properties" in node
    if defaults and default is not NoDefault and default is not None and (is_section or default not in ([], {})):
        result["default"] = default
    if "items" in node:
        result["items"] = _structural(node["items"], definitions, defaults=defaults)
    if isinstance(node.get("additionalProperties"), dict):
        result["additionalProperties"] = _structural(node["additionalProperties"], definitions, defaults=defaults)
    elif node.get("additionalProperties") is True:
        result["x-kubernetes-preserve-unknown-fields"] = True
    if "properties" in node:
        result["properties"] = {
            name: _structural(child, definitions, defaults=defaults) for name, child in node["properties"].items()
        }
    return result | {key: value for key, value in node.items() if key.startswith("x-kubernetes-")}


def with_defaults(value: Any, node: dict[str, Any]) -> Any:
    """What the API server stores of a value that fits the schema ``node``: defaults filled in, outermost first."""
    properties = node.get("properties")
    if isinstance(value, dict) and properties:
        filled = {name: child["default"] for name, child in properties.items() if "default" in child} | value
        return {name: with_defaults(item, properties.get(name, {})) for name, item in filled.items()}
    if isinstance(value, list) and "items" in node:
        return [with_defaults(item, node["items"]) for item in value]
    return value


def _name_rules() -> list[dict[str, str]]:
    """What metadata.name must be, for all other names are derived from it."""
    length = f"metadata.name has more than {MAX_JOB_NAME} characters; the names of pods must have room beside it"
    return [
        {"rule": f"self.metadata.name.size() <= {MAX_JOB_NAME}", "message": length, "fieldPath": ".metadata.name"},
        {**JOB_NAME.validation("self.metadata.name"), "fieldPath": ".metadata.name"},
    ]


def schema() -> dict[str, Any]:
    """The OpenAPI v3 schema of the whole resource."""
    frozen = {"rule": FROZEN_WHILE_RUNNING, "message": FROZEN_SENTENCE, "fieldPath": ".spec"}
    return {
        "type": "object",
        "description": "A training job on a Ray cluster of its own: what to train, on what data, how, and where.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"Always {GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"Always {KIND}."},
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 253}}},
            "spec": schema_of(ScalingJobSpec),
            "status": schema_of(ScalingJobStatus, defaults=False),
        },
        VALIDATIONS: [*_name_rules(), frozen],
    }


def crd() -> dict[str, Any]:
    """The whole CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT_NAME],
                "categories": list(CATEGORIES),
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path} for name, kind, path in COLUMNS
                    ],
                    "schema": {"openAPIV3Schema": schema()},
                }
            ],
        },
    }
