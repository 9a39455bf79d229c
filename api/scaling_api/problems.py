"""What is wrong with a manifest, as sentences: pydantic's errors put into words for the person who wrote it.

A sentence names the value and what is allowed; the path of the field stands before it. For an unknown
field it says which one was probably meant, or where the field belongs.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails

from scaling_api.redaction import redacted

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to put right. ``suggestion`` is a guess at what was meant, for a misspelt name."""

    path: Path
    message: str
    suggestion: str | None = None

    @property
    def field(self) -> str:
        """The path as people write it: spec.cluster.workers[0].name."""
        return dotted(self.path)

    @property
    def sentence(self) -> str:
        """The message, and the suggestion if there is one."""
        return f"{self.message}; {self.suggestion}" if self.suggestion else self.message

    def __str__(self) -> str:
        return f"{self.field}: {self.sentence}" if self.path else self.sentence


def dotted(path: Path) -> str:
    """A path as people write it."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def shown(value: Any) -> str:
    """A value in a sentence: what kind of thing it is, and the thing itself where it is short."""
    match value:
        case None:
            return "empty (null)"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {json.dumps(_short(redacted(value)), ensure_ascii=False)}"
        case int() | float():
            return f"the number {value}"
        case Mapping():
            return "a mapping of fields"
        case list() | tuple():
            return "a list"
        case _:
            return f"of type {type(value).__name__}"


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _plain(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (bool, str)) else str(value)


def _string_type(error: ErrorDetails) -> str:
    return not_text(error["input"])


def not_text(value: Any) -> str:
    """The sentence for a value that must be text. How it was written is not known any more: y, or 010 for 8."""
    match value:
        case True:
            hint = "; put it in quotes, because YAML reads y, yes and on as true"
        case False:
            hint = "; put it in quotes, because YAML reads n, no and off as false"
        case int() | float():
            hint = "; put it in quotes"
        case _:
            hint = ""
    return f"must be text, not {shown(value)}{hint}"


def _number_type(kind: str) -> Callable[[ErrorDetails], str]:
    def sentence(error: ErrorDetails) -> str:
        value = error["input"]
        hint = ""
        if isinstance(value, str) and _is_number(value):
            hint = "; write it without quotes"
        return f"must be {kind}, not {shown(value)}{hint}"

    return sentence


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _bound(words: str, key: str) -> Callable[[ErrorDetails], str]:
    return lambda error: f"must be {words} {_number(error['ctx'][key])}, not {error['input']}"


def _counted(key: str, words: str) -> Callable[[ErrorDetails], str]:
    """Sentences about the number of items or characters."""

    def sentence(error: ErrorDetails) -> str:
        limit = error["ctx"][key]
        thing = "character" if isinstance(error["input"], str) else "item"
        plural = "" if limit == 1 else "s"
        return f"must have {words} {limit} {thing}{plural}, not {len(error['input'])}"

    return sentence


def _choice(error: ErrorDetails) -> str:
    allowed = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
    return f"{_plain(error['input'])} is not supported; allowed: {allowed}"


# By pydantic's error type. What is not here keeps pydantic's own words.
_SENTENCES: dict[str, Callable[[ErrorDetails], str]] = {
    "missing": lambda error: "is required",
    "extra_forbidden": lambda error: "unknown field",
    "string_type": _string_type,
    "int_type": _number_type("a whole number"),
    "float_type": _number_type("a number"),
    "finite_number": _number_type("a finite number"),
    "bool_type": lambda error: f"must be true or false, not {shown(error['input'])}",
    "model_type": lambda error: f"must be a mapping of fields, not {shown(error['input'])}",
    "model_attributes_type": lambda error: f"must be a mapping of fields, not {shown(error['input'])}",
    "dict_type": lambda error: f"must be a mapping of fields, not {shown(error['input'])}",
    "list_type": lambda error: f"must be a list, not {shown(error['input'])}",
    "literal_error": _choice,
    "greater_than_equal": _bound("at least", "ge"),
    "greater_than": _bound("above", "gt"),
    "less_than_equal": _bound("at most", "le"),
    "less_than": _bound("below", "lt"),
    "string_too_short": _counted("min_length", "at least"),
    "string_too_long": _counted("max_length", "at most"),
    "too_short": _counted("min_length", "at least"),
    "too_long": _counted("max_length", "at most"),
}


def problems_of(errors: Iterable[ErrorDetails], schema: Mapping[str, Any]) -> Iterator[Problem]:
    """Pydantic's errors as problems. ``schema`` is the resource's, to know which fields there are."""
    details = list(errors)
    meant: set[Path] = set()
    unknown = [error for error in details if error["type"] == "extra_forbidden"]
    for error in unknown:
        problem, guess = _unknown_field(error["loc"], schema)
        yield problem
        if guess is not None:
            meant.add(guess)
    for error in details:
        path = tuple(error["loc"])
        if error["type"] == "extra_forbidden" or path in meant:
            continue  # a required field that is merely misspelt is one mistake, not two
        sentence = _SENTENCES.get(error["type"])
        if error["type"] == "duplicate":
            path = (*path, error["ctx"]["index"])
        message = sentence(error) if sentence else error["msg"]
        if error["type"] == "missing" and (description := _at(schema, path).get("description")):
            message = f"{message}: {description[0].lower()}{description[1:].removesuffix('.')}"
        yield Problem(path, message)


def _unknown_field(path: Path, schema: Mapping[str, Any]) -> tuple[Problem, Path | None]:
    """The problem of a field that does not exist, and the path of the field that was probably meant."""
    *above, name = path
    known = list(_at(schema, tuple(above)).get("properties", {}))
    if guess := closest(str(name), known):
        return Problem(path, "unknown field", f"did you mean {guess}?"), (*above, guess)
    homes = list(_homes(_letters(str(name)), schema))
    if len(homes) == 1:
        return Problem(path, "unknown field", f"did you mean {dotted(homes[0])}?"), homes[0]
    return Problem(path, f"unknown field; known here: {', '.join(known)}" if known else "unknown field"), None


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, whatever the case and the underscores."""
    by_letters = {_letters(candidate): candidate for candidate in known}
    found = difflib.get_close_matches(_letters(name), by_letters, n=1, cutoff=0.7)
    return by_letters[found[0]] if found else None


def _letters(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _homes(letters: str, schema: Mapping[str, Any], path: Path = ()) -> Iterator[Path]:
    """The fields of the spec that have this name, wherever they are."""
    for child, node in schema.get("properties", {}).items():
        if path or child == "spec":
            if _letters(child) == letters:
                yield (*path, child)
            yield from _homes(letters, node.get("items", node), (*path, child))


def _at(schema: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The schema of the field at a path; empty when there is none."""
    node = schema
    for part in path:
        if isinstance(part, int):
            node = node.get("items", {})
        else:
            node = node.get("properties", {}).get(part) or node.get("additionalProperties", {})
    return node
