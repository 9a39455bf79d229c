from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest

from scaling_training.engine.scratch import LONGEST, scratch_folder
from scaling_training.errors import UserError

TOO_LONG = "/tmp/" + "a" * LONGEST
RAYS = "session_2026-11-30_06-33-00_123456_4194304/sockets/plasma_store"


def test_the_first_that_does_is_taken() -> None:
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as short:
        folder = scratch_folder(["/tmp/with blanks", TOO_LONG, "/nothing/here", short])
        assert folder.is_dir()
        assert folder.parent == Path(short)


def test_in_the_longest_that_is_taken_ray_can_have_its_sockets() -> None:
    with tempfile.TemporaryDirectory(prefix="s" * (LONGEST - len("/tmp/") - 8), dir="/tmp") as place:
        assert len(place) == LONGEST
        path = scratch_folder([place]) / RAYS
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            with pytest.raises(OSError, match="too long"), socket.socket(socket.AF_UNIX) as another:
                another.bind(f"{path}s")


def test_without_any_it_is_said_why_and_what_to_do() -> None:
    with pytest.raises(UserError) as refused:
        scratch_folder(["/tmp/with blanks", TOO_LONG, "/nothing/here"])
    sentence = str(refused.value)
    assert "/tmp/with blanks has blanks or other characters" in sentence
    assert f"{TOO_LONG} is longer than {LONGEST} bytes" in sentence
    assert "/nothing/here cannot be written (No such file or directory)" in sentence
    assert sentence.endswith("set TMPDIR to a short path without blanks")


@pytest.mark.parametrize("unlike", ["/tmp/a temporary folder", TOO_LONG])
def test_a_temporary_folder_of_the_users_that_does_not_do_gives_way(
    unlike: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", unlike)
    folder = scratch_folder()
    assert folder.parent == Path("/tmp")
    folder.rmdir()
