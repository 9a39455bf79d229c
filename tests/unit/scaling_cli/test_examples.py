"""Every ScalingJob that people will copy is right: the examples, and what README and docs show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scaling_cli.manifest import load_job

_ROOT = Path(__file__).parents[3]
_TEXTS = (_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
_SHOWN = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in _TEXTS
    for number, block in enumerate(_BLOCK.findall(path.read_text()), 1)
    if "kind: ScalingJob" in block
]


@pytest.mark.parametrize("path", sorted((_ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_is_right(path: Path) -> None:
    assert load_job(str(path), on_cluster=True).metadata.name


@pytest.mark.parametrize("text", _SHOWN)
def test_a_manifest_in_the_documentation_is_right(text: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(text)
    assert load_job(str(tmp_path / "job.yaml"), on_cluster=True).metadata.name


def test_there_is_something_to_check() -> None:
    assert _SHOWN
