"""What can be checked of the Dockerfile and of the requirements of both images without building them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
IMAGES = ("operator", "runtime")
# What each image is for: its own packages, and the extras that it installs.
PACKAGES = {
    "operator": ("scaling_api", "scaling_operator"),
    "runtime": ("scaling_api", "scaling_training", "scaling_cli"),
}
EXTRAS = {"operator": ("operator",), "runtime": ("training", "cli")}


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the Dockerfile; instructions are words."""

    base: str
    instructions: list[list[str]]

    def all(self, name: str) -> list[list[str]]:
        """The arguments of each instruction of this name."""
        return [words[1:] for words in self.instructions if words[0] == name]


@cache
def stages() -> dict[str, Stage]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    found: dict[str, Stage] = {}
    for words in (line.split() for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()):
        if words[0] == "FROM":
            assert words[2] == "AS"
            found[words[3]] = Stage(words[1], [])
        elif found:
            found[list(found)[-1]].instructions.append(words)
    return found


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@cache
def requirements(name: str) -> dict[str, str]:
    """Version by package."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)(?:\[.*\])?==([^ ;\\]+)", text, re.MULTILINE))


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_a_numbered_user_without_rights(image: str) -> None:
    ((user,),) = stages()[image].all("USER")
    number, _, group = user.partition(":")
    assert int(number) > 0
    assert int(group) > 0


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_starts_a_program_of_this_project(image: str) -> None:
    ((program,),) = stages()[image].all("ENTRYPOINT") or stages()[image].all("CMD")
    assert program.strip('["]') in project()["project"]["scripts"]


def test_what_is_copied_is_there_and_is_sent_to_the_build() -> None:
    kept = {line.lstrip("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = 0
    for stage in stages().values():
        for words in stage.all("COPY"):
            if words[0].startswith("--from="):
                assert words[0].removeprefix("--from=") in stages()
                continue
            for source in words[:-1]:
                sources += 1
                assert (ROOT / source).exists(), source
                assert source.split("/")[0] in kept, source
    assert sources


def test_nothing_is_installed_without_a_hash() -> None:
    commands = [" ".join(words) for stage in stages().values() for words in stage.all("RUN")]
    parts = [part for command in commands for part in command.split("&&")]
    installs = [part for part in parts if " install " in part or "uv build" in part]
    assert len(installs) >= 4
    for part in installs:
        # The package itself is built here, from a wheel whose dependencies are there already.
        assert "--require-hashes" in part or "--no-deps" in part, part


@pytest.mark.parametrize("name", [*IMAGES, "dev", "uv"])
def test_every_requirement_has_one_version_and_hashes(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "://" not in text
    entries = re.findall(r"^[a-z0-9].*(?:\n    .*)*", text, re.MULTILINE)
    assert len(entries) == len(requirements(name)) > 0
    for entry in entries:
        assert "--hash=sha256:" in entry, entry


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_what_its_extras_ask_for_in_the_versions_that_are_tested(image: str) -> None:
    installed, tested = requirements(image), requirements("dev")
    about = project()["project"]
    extras = [wanted for extra in EXTRAS[image] for wanted in about["optional-dependencies"][extra]]
    for wanted in [*about["dependencies"], *extras]:
        assert re.split(r"[\[<>=]", wanted)[0] in installed, wanted
    assert {name: tested.get(name) for name in installed} == installed


# Imports every module, finding nothing but Python, this project and what the requirements name.
_IMPORT_ALL = """
import importlib, importlib.metadata, pkgutil, re, sys
allowed, packages = set(sys.argv[1].split(",")), sys.argv[2].split(",")
owners = importlib.metadata.packages_distributions()

finders = sys.meta_path[:]

class Finder:
    def find_spec(self, name, path=None, target=None):
        names = {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners.get(name.split(".")[0], ())}
        if names and not names & allowed:
            return None
        return next(filter(None, (finder.find_spec(name, path, target) for finder in finders)), None)

sys.meta_path[:] = [Finder()]
for package in packages:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)
print(len([name for name in sys.modules if name.startswith(tuple(packages))]))
"""


@pytest.mark.parametrize("image", IMAGES)
def test_every_module_of_an_image_can_be_imported_with_its_requirements(image: str) -> None:
    allowed = ",".join([*requirements(image), project()["project"]["name"]])
    command = [sys.executable, "-c", _IMPORT_ALL, allowed, ",".join(PACKAGES[image])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 20


def test_the_operators_image_has_nothing_of_training() -> None:
    heavy = {"torch", "torchvision", "ray", "numpy", "s3fs", "gcsfs", "adlfs", "botocore", "matplotlib"}
    assert heavy.isdisjoint(requirements("operator"))
    assert {"torch", "ray", "s3fs", "gcsfs", "adlfs"} <= set(requirements("runtime"))
