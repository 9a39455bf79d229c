"""What is generated and checked in is what the models say now; and the examples in it are right."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from scaling_api.crd import schema
from scaling_api.validation import check
from scaling_cli.generate import FILES
from scaling_cli.manifest import load
from scaling_cli.reference import EXAMPLES, reference
from tests.cases.case import minimal

_ROOT = Path(__file__).parents[3]
_MAX_CRD_BYTES = 100_000


@pytest.mark.parametrize("name", FILES)
def test_a_generated_file_is_up_to_date(name: str) -> None:
    assert (_ROOT / name).read_text() == FILES[name](), f"{name} is stale; run `make generate`"


def test_the_crd_is_small() -> None:
    assert (_ROOT / "manifests/crd.yaml").stat().st_size < _MAX_CRD_BYTES


def _framed(path: str, content: Any) -> dict[str, Any]:
    """A whole manifest with ``content`` as the section at a path, and nothing else in the sections on the way."""
    manifest = minimal()
    *above, last = path.split(".")
    section = manifest
    for name in above:
        section = section.setdefault(name, {})
    if last.endswith("[]"):
        section[last.removesuffix("[]")] = [content]
    elif isinstance(section.get(last), dict) and last == "training":
        section[last] |= content
    else:
        section[last] = content
    return manifest


@pytest.mark.parametrize("path", EXAMPLES)
def test_an_example_is_right(path: str, tmp_path: Path) -> None:
    (tmp_path / "example.yaml").write_text(dedent(EXAMPLES[path]))
    (document,) = load(str(tmp_path / "example.yaml"))
    assert check(_framed(path, document.value)) == []


@pytest.mark.parametrize("path", EXAMPLES)
def test_an_example_is_shown_within_its_sections(path: str) -> None:
    section = reference().split(f"## `{path}`\n", 1)[1].split("\n## ", 1)[0]
    shown = yaml.safe_load(section.split("```yaml\n", 1)[1].split("```", 1)[0])
    for name in path.split("."):
        shown = shown[name.removesuffix("[]")]
        shown = shown[0] if name.endswith("[]") else shown
    assert shown == yaml.safe_load(dedent(EXAMPLES[path]))


def test_the_reference_has_every_field() -> None:
    text = reference()
    for section in ("model", "dataset", "training", "cluster", "runPolicy", "storage"):
        node = schema()["properties"]["spec"]["properties"][section]
        for field, child in node["properties"].items():
            assert f"| `{field}` |" in text
            assert child["description"] in text
