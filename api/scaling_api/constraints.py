"""Constraints on one field that JSON Schema has no readable words for.

Like a Rule, each is written once and used three times: as an annotation it validates in pydantic, in the
CRD it becomes a CEL expression or a list type, and its sentence is what a person reads in both.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from scaling_api.redaction import redacted

VALIDATIONS = "x-kubernetes-validations"
LIST_TYPE = "x-kubernetes-list-type"
LIST_KEYS = "x-kubernetes-list-map-keys"

# The format of every integer in the CRD.
MAX_INT64 = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a string must look like.

    ``regex`` covers the whole string and keeps to what RE2, Rust and Python read alike. ``allowed``
    finishes the sentence '"<value>" is not ' and says what to write instead.
    """

    regex: str
    allowed: str

    def message(self, value: object) -> str:
        """The sentence about a value that does not match."""
        return f'"{value}" is not {self.allowed}'

    def validation(self, subject: str = "self") -> dict[str, str]:
        """The entry of x-kubernetes-validations, over a string-valued expression."""
        return {
            "rule": f"{subject}.matches({cel_string(f'^({self.regex})$')})",
            "message": f"the value is not {self.allowed}",
            "messageExpression": cel_format(self.message("%s"), subject),
        }

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        compiled = re.compile(self.regex)

        def check(value: str) -> str:
            if compiled.fullmatch(value) is None:
                raise PydanticCustomError("pattern", "{sentence}", {"sentence": self.message(redacted(value))})
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), VALIDATIONS: [self.validation()]}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A Kubernetes quantity. YAML's ``cpu: 1`` is a number, which Kubernetes takes as well: it is read as "1"."""

    pattern: Pattern
    max_length: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any) -> Any:
            return str(value) if type(value) is int else value

        bounded = core_schema.str_schema(strict=True, min_length=1, max_length=self.max_length)
        checked = self.pattern.__get_pydantic_core_schema__(source, lambda _source: bounded)  # type: ignore[arg-type]
        return core_schema.no_info_before_validator_function(read, checked)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # As for a pod's quantities: either type, and the bounds bind the one they fit.
        return {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "minLength": 1,
            "maxLength": self.max_length,
            VALIDATIONS: [self.pattern.validation("string(self)")],
        }


@dataclass(frozen=True, slots=True)
class KeyedBy:
    """A list whose items are told apart by one field; a second item of the same key is refused."""

    key: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(items: list[Any]) -> list[Any]:
            seen: set[Any] = set()
            for index, item in enumerate(items):
                value = getattr(item, self.key)
                if value in seen:
                    sentence = f"{self.key} {json.dumps(value)} is used by an earlier item; it has to be unique"
                    raise PydanticCustomError("duplicate", "{sentence}", {"sentence": sentence, "index": index})
                seen.add(value)
            return items

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), LIST_TYPE: "map", LIST_KEYS: [self.key]}


@dataclass(frozen=True, slots=True)
class Editable:
    """The field may be edited while its job runs, and the edit takes effect at once; see `edits`."""


def cel_format(sentence: str, *values: str) -> str:
    """A CEL expression that puts the values of expressions in the places of ``%s``.

    Not by +, which the API server's cost estimate takes for unbounded once a number is made a string.
    """
    return f"{cel_string(sentence)}.format([{', '.join(values)}])"


def cel_string(text: str) -> str:
    """A CEL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
