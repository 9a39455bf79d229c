"""A compiler that is killed with its process spoils the cache of torch.compile for nobody."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from scaling_training.train import World
from scaling_training.train.compile_cache import remove_unfinished_builds
from tests.unit.scaling_training.worlds import in_world

SOURCE = 'extern "C" int answer() { return 42; }'

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")


def built(world: World, cache: str, *, sweeps: bool = False, dies: bool = False) -> int | str:
    """What the built library answers."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    from torch._inductor import cpp_builder
    from torch._inductor.codecache import CppCodeCache

    if sweeps:
        remove_unfinished_builds()
    with patch.object(cpp_builder, "run_compile_cmd", _killed if dies else cpp_builder.run_compile_cmd):
        try:
            # Without asking what the processor can, which takes builds of its own.
            return int(CppCodeCache.load(SOURCE, needs_vec_isa=False).answer())
        except OSError as error:
            return str(error)


def _killed(command: str, cwd: str) -> None:
    """As the linker has it when it begins."""
    words = shlex.split(command)
    Path(words[words.index("-o") + 1]).touch()
    signal.raise_signal(signal.SIGKILL)


def dying(world: World, cache: str) -> None:
    built(world, cache, dies=True)


def sweeping(world: World, cache: str) -> int | str:
    return built(world, cache, sweeps=True)


def test_what_a_killed_build_left_is_built_anew(tmp_path: Path) -> None:
    with pytest.raises(EOFError):
        in_world(1, dying, str(tmp_path))
    # Else there were nothing to mend.
    assert "file too short" in in_world(1, built, str(tmp_path))[0]
    assert in_world(1, sweeping, str(tmp_path)) == [42]
    assert in_world(1, built, str(tmp_path)) == [42]


def test_what_others_build_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils._filelock import FileLock

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    (tmp_path / "ab/key.main_CxxBuild").mkdir(parents=True)
    (tmp_path / "locks").mkdir()
    files = [tmp_path / f"ab/key.main{suffix}" for suffix in (".so", ".cpp")]
    for file in files:
        file.touch()
    with FileLock(str(tmp_path / "locks/key.lock")):
        remove_unfinished_builds()
    assert all(file.exists() for file in files)

    remove_unfinished_builds()
    assert [file.exists() for file in files] == [False, True]
    assert not (tmp_path / "ab/key.main_CxxBuild").exists()


def test_what_others_delete_in_the_meantime_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    scan, vanishing, left = os.scandir, tmp_path / "aa", tmp_path / "zz/key.main_CxxBuild"
    vanishing.mkdir()
    left.mkdir(parents=True)

    def vanish(path: Any) -> Any:
        if path == str(vanishing) or path == vanishing:
            vanishing.rmdir()
        return scan(path)

    monkeypatch.setattr(os, "scandir", vanish)
    remove_unfinished_builds()
    assert not left.exists()
    assert not vanishing.exists(), "it was looked into"
