"""The base of all models, and the rules that go beyond a single field's type and bounds.

A rule is written once and used three times: as a CEL expression in the CRD (so the API server refuses
at apply), as a Python predicate (so operator, CLI and driver give the same verdict offline), and as the
sentence that a person reads. A sentence may quote values by their path, ``{max}``; the paths in it must
be required or defaulted fields, because CEL has no value for a field that is absent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from scaling_api.constraints import cel_format

_QUOTED = re.compile(r"\{([a-zA-Z.]+)\}")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule over the fields of one model.

    ``field`` is the path, relative to the model, that the sentence blames; empty for the model itself.
    ``holds`` is the Python side of ``cel``; the two are kept equal by the refusal tests, which send each
    case both ways. ``on_cluster_only`` marks what a run on one machine does not need (it has a folder, not
    a claim).
    """

    cel: str
    holds: Callable[[Any], bool]
    sentence: str
    field: str
    on_cluster_only: bool = False

    def message(self, model: BaseModel) -> str:
        """The sentence with the values of ``model`` filled in."""

        def value(match: re.Match[str]) -> str:
            found: Any = model
            for part in match.group(1).split("."):
                found = getattr(found, _snake(part))
            return f"{found:g}" if isinstance(found, float) else str(found)

        return _QUOTED.sub(value, self.sentence)

    def message_expression(self) -> str | None:
        """The sentence as a CEL expression, or None when it quotes no value."""
        paths = _QUOTED.findall(self.sentence)
        return cel_format(_QUOTED.sub("%s", self.sentence), *(f"self.{path}" for path in paths)) if paths else None

    def validation(self) -> dict[str, str]:
        """The entry of x-kubernetes-validations."""
        entry = {"rule": self.cel, "message": _QUOTED.sub(r"<\1>", self.sentence)}
        if expression := self.message_expression():
            entry["messageExpression"] = expression
        if self.field:
            entry["fieldPath"] = f".{self.field}"
        return entry


def _snake(camel: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", lambda found: "_" + found.group(1).lower(), camel)


class Model(BaseModel):
    """Strict and immutable: a misspelt field or a value of another type is an error, as for the API server,
    and nobody edits a spec in place."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        alias_generator=to_camel,
        populate_by_name=True,
        validate_default=True,
        use_enum_values=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    def to_json_dict(self) -> dict[str, Any]:
        """The wire form: camelCase names, absent instead of null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that does not hold: where (``spec.storage.uri``) and the sentence to show."""

    path: tuple[str | int, ...]
    message: str
    on_cluster_only: bool


def violations(model: Model, path: tuple[str | int, ...] = ()) -> Iterator[Violation]:
    """All rules below ``model`` that do not hold, outermost first."""
    for rule in model.rules:
        if not rule.holds(model):
            blamed = tuple(part for part in rule.field.split(".") if part)
            yield Violation(path + blamed, rule.message(model), rule.on_cluster_only)
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        key = field.alias or name
        if isinstance(value, Model):
            yield from violations(value, (*path, key))
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                if isinstance(item, Model):
                    yield from violations(item, (*path, key, index))
