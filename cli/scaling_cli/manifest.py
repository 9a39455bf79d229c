"""Reading manifests: YAML as kubectl reads it, with the line of every field.

kubectl turns YAML into JSON before anything else sees it, by rules that differ from PyYAML's: 1e-3 is a
number, a date is text, 1:30 is text, a key is always text. A manifest must mean the same to both, so
scalars are resolved here. Stricter than kubectl in one thing: a key given twice is an error, because one
of the two values would be lost in silence.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scaling_api import ScalingJob
from scaling_api.problems import Path as FieldPath
from scaling_api.problems import Problem
from scaling_api.validation import examine, is_ours
from scaling_cli.errors import UsageError

STDIN = "-"

# Aliases can make a few lines stand for billions of fields; no honest manifest comes near this.
_MAX_FIELDS = 100_000
_MAX_DEPTH = 100
# Integers of so many digits, in any base, have room in a float. Python itself refuses to read very long ones.
_MAX_DIGITS = 250

_NULLS = ("", "~", "null", "Null", "NULL")
_TRUE = {"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"}
_FALSE = {"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"}
_INTEGER = re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?\.(inf|Inf|INF))|\.(nan|NaN|NAN)")
_STRING_TAG = "tag:yaml.org,2002:str"
_STANDARD_TAGS = "tag:yaml.org,2002:"
_PYTHON_TAGS = "tag:yaml.org,2002:python/"
_MERGE_TAG = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file, and where each of its fields stands."""

    source: str
    value: Any
    lines: Mapping[FieldPath, int] = field(repr=False)

    def line(self, path: FieldPath) -> int:
        """The line of a field, or of the nearest section around it that is there; counted from 1."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def sorted(self, problems: Iterable[Problem]) -> list[Problem]:
        """Problems in the order of their lines."""
        return sorted(problems, key=lambda problem: self.line(problem.path))

    def report(self, problem: Problem) -> str:
        """A problem as compilers write it: file:line: path: sentence."""
        return f"{self.source}:{self.line(problem.path)}: {problem}"


def load(source: str) -> list[Document]:
    """All documents of a file (``-``: standard input), apart from empty ones.

    Raises UsageError when it cannot be read, is not YAML, or holds nothing.
    """
    name = "<stdin>" if source == STDIN else source
    try:
        documents = _documents(_read(source), name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UsageError(f"{name}:{line}: not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:  # the parser's, long before the reader counts
        raise UsageError(f"{name} is nested too deeply") from None
    if not documents:
        raise UsageError(f"{name} is empty; it should hold a ScalingJob")
    return documents


def load_job(source: str, *, on_cluster: bool) -> ScalingJob:
    """The one ScalingJob of a file, checked; documents of other kinds are passed over.

    Raises UsageError, with a line per problem, when there is none, more than one, or a wrong one.
    """
    documents = load(source)
    jobs = [document for document in documents if is_ours(document.value)]
    if not jobs:
        raise UsageError(f"{documents[0].source} holds no ScalingJob; it holds {kinds(documents)}")
    if len(jobs) > 1:
        where = " and ".join(str(document.line(())) for document in jobs)
        raise UsageError(f"{jobs[0].source} holds {len(jobs)} ScalingJobs (lines {where}); give each its own file")
    (document,) = jobs
    job, problems = examine(document.value, on_cluster=on_cluster)
    if problems or job is None:
        lines = [document.report(problem) for problem in document.sorted(problems)]
        raise UsageError("\n".join(["the manifest is wrong", *lines]))
    return job


def kinds(documents: list[Document]) -> str:
    """What a file holds, in words."""
    found = [value.get("kind") if isinstance(value := document.value, dict) else None for document in documents]
    return ", ".join(str(kind) if kind else "something without a kind" for kind in found)


def _documents(text: str, name: str) -> list[Document]:
    loader = yaml.SafeLoader(text)
    found = []
    try:
        while loader.check_node():
            if node := loader.get_node():
                found.append(_Reader(name).read(node))
    finally:
        loader.dispose()
    return [document for document in found if document.value is not None]


def _read(source: str) -> str:
    try:
        return sys.stdin.read() if source == STDIN else Path(source).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{source}: no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{source} is a folder; name the file in it") from None
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{source} is not text in UTF-8") from None


class _Reader:
    """Turns the nodes of one document into values, noting lines by the way."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lines: dict[FieldPath, int] = {}
        self._fields = 0

    def read(self, node: yaml.Node) -> Document:
        self._lines[()] = node.start_mark.line + 1
        return Document(self._source, self._value(node, ()), self._lines)

    def _value(self, node: yaml.Node, path: FieldPath) -> Any:
        self._fields += 1
        if self._fields > _MAX_FIELDS or len(path) > _MAX_DEPTH:
            raise self._error(node, "the document is too large or refers to itself")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        raise self._error(node, f"{node.tag} is not supported")

    def _item(self, node: yaml.Node, path: FieldPath) -> Any:
        self._lines[path] = node.start_mark.line + 1
        return self._value(node, path)

    def _mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE_TAG:
                merged |= self._merged(value_node, path)
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE_TAG:
                continue
            key = self._key(key_node)
            if key in own:
                first = self._lines[(*path, key)]
                raise self._error(key_node, f"{key} is given twice; it stands in line {first} already")
            self._lines[(*path, key)] = key_node.start_mark.line + 1
            own[key] = self._value(value_node, (*path, key))
        return merged | own

    def _merged(self, node: yaml.Node, path: FieldPath) -> dict[str, Any]:
        """What ``<<`` brings in: one mapping, or several of which the first counts."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        result: dict[str, Any] = {}
        for source in reversed(sources):
            if not isinstance(source, yaml.MappingNode):
                raise self._error(source, "<< takes a mapping")
            result |= self._mapping(source, path)
        return result

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, "a key must be text")
        key = self._scalar(node)
        if key is None:
            raise self._error(node, "a key must be text, not null")
        return str(key).lower() if isinstance(key, bool) else str(key)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        if not node.tag.startswith(_STANDARD_TAGS) or node.tag.startswith(_PYTHON_TAGS):
            raise self._error(node, f"the tag {node.tag} is not supported")
        if node.style in ("'", '"', "|", ">") or _explicitly_string(node):
            return text
        if text in _NULLS:
            return None
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        if _INTEGER.fullmatch(text):
            if len(text) > _MAX_DIGITS:
                raise self._error(node, f"a number of {len(text)} digits is more than a manifest can hold")
            return _integer(text)
        if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
            return number
        if _INFINITE.fullmatch(text):
            raise self._error(node, f"{text} is not a number that a manifest can hold")
        return text

    def _error(self, node: yaml.Node, message: str) -> UsageError:
        return UsageError(f"{self._source}:{node.start_mark.line + 1}: {message}")


def _explicitly_string(node: yaml.ScalarNode) -> bool:
    """Whether a plain scalar carries the tag !!str; the parser resolves untagged ones by its own rules."""
    text = str(node.start_mark.buffer or "")[node.start_mark.pointer :]
    return node.tag == _STRING_TAG and text.startswith("!!str")


def _integer(text: str) -> int | float:
    digits = text.replace("_", "")
    try:
        return int(digits, 0)
    except ValueError:  # 010 is octal in YAML 1.1, and 08 is nobody's octal
        bare = digits.lstrip("+-")
        sign = -1 if digits.startswith("-") else 1
        return sign * (int(bare, 8) if set(bare) <= set("01234567") else int(bare))
