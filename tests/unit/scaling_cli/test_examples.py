"""Every ScalingJob that people will copy is right: the examples, and what README and docs show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

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


_JOBS = [path for path in sorted((_ROOT / "examples").glob("*.yaml")) if "kind: ScalingJob" in path.read_text()]


@pytest.mark.parametrize("path", _JOBS, ids=lambda path: path.name)
def test_an_example_is_right(path: Path) -> None:
    assert load_job(str(path), on_cluster=True).metadata.name


@pytest.mark.parametrize("text", _SHOWN)
def test_a_manifest_in_the_documentation_is_right(text: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(text)
    assert load_job(str(tmp_path / "job.yaml"), on_cluster=True).metadata.name


def test_there_is_something_to_check() -> None:
    assert _JOBS
    assert _SHOWN


def test_the_commands_in_the_readme_make_all_that_their_job_needs() -> None:
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", _TEXTS[0].read_text(), re.DOTALL))
    files = re.findall(r"(?:-f|run) (examples/\S+)", commands)
    applied = [document for name in files for document in yaml.safe_load_all((_ROOT / name).read_text())]
    made = {document["metadata"]["name"] for document in applied if document["kind"] == "PersistentVolumeClaim"}
    jobs = [document for document in applied if document["kind"] == "ScalingJob"]
    assert jobs
    assert {job["spec"]["storage"]["claimName"] for job in jobs} <= made


def test_the_images_of_the_readme_are_those_that_it_builds() -> None:
    text = _TEXTS[0].read_text()
    (shown,) = re.findall(r"kustomization.yaml <<END\n(.*?)END\n", text, re.DOTALL)
    overlay = yaml.safe_load(shown)
    own = yaml.safe_load((_ROOT / "manifests" / "kustomization.yaml").read_text())
    assert [generator["name"] for generator in overlay["configMapGenerator"]] == [
        generator["name"] for generator in own["configMapGenerator"]
    ]
    built = set(re.findall(r"docker build --target \w+ +-t (\S+) ", text))
    (literal,) = overlay["configMapGenerator"][0]["literals"]
    assert literal.removeprefix("runtimeImage=") in built
    (image,) = overlay["images"]
    assert any(name.startswith(f"{image['newName']}:") for name in built)
