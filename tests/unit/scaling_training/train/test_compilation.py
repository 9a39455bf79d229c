from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from scaling_training.errors import UserError
from scaling_training.train.compilation import check_compiler


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with Python's headers and no compiler."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    return tmp_path


def install(folder: Path, name: str) -> None:
    (folder / name).touch(mode=0o755)


@pytest.mark.parametrize(
    ("device", "compiler", "needed"),
    [
        pytest.param("cpu", "g++", r"C\+\+ compiler .*apt-get install g\+\+", id="C++ on CPUs"),
        pytest.param("cuda", "gcc", r"C compiler on GPUs, too.*apt-get install gcc", id="C on GPUs, for Triton"),
    ],
)
def test_without_a_compiler_it_is_said_before_the_first_step(
    image: Path, device: str, compiler: str, needed: str
) -> None:
    with pytest.raises(UserError, match=needed):
        check_compiler(device)
    install(image, compiler)
    check_compiler(device)


def test_a_compiler_that_is_named_will_do(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(image, "icx")
    monkeypatch.setenv("CC", "icx")
    check_compiler("cuda")


def test_triton_needs_the_headers_too(image: Path) -> None:
    install(image, "gcc")
    (image / "Python.h").unlink()
    with pytest.raises(UserError, match=r"Python\.h is not there"):
        check_compiler("cuda")
