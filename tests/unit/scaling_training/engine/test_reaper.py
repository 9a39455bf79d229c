from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaling_training.engine import reaper
from scaling_training.engine.reaper import reaped

# Stands for one of Ray's processes: a session of its own, a log in the folder, and nobody who waits for it.
STARTS_AND_WAITS = """
import subprocess, sys, time
from pathlib import Path
from scaling_training.engine.reaper import reaped
folder = Path(sys.argv[1])
with reaped(folder):
    with open(folder / "log", "w") as log:
        child = subprocess.Popen(["sleep", "300"], start_new_session=True, stdout=log)
    print(child.pid, flush=True)
    time.sleep(300)
"""


# What has to happen happens within this, however busy the machine is.
LIMIT_S = 60


def gone(pid: int) -> bool:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_what_was_started_in_the_folder_ends_with_the_block_and_we_do_not(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "scratch", tmp_path / "scratch2"
    for place in (folder, elsewhere):
        place.mkdir()
    with open(folder / "mine", "w"), reaped(folder):
        with open(folder / "log", "w") as log:
            ours = subprocess.Popen(["sleep", "300"], stdout=log)
        with open(elsewhere / "log", "w") as log:
            other = subprocess.Popen(["sleep", "300"], stdout=log)
    try:
        assert ours.wait(LIMIT_S) == -9
        assert other.poll() is None
        assert not folder.exists()
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()


def test_what_was_started_in_the_folder_ends_with_a_killed_process(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_AND_WAITS, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
    assert gone(child)
    deadline = time.monotonic() + LIMIT_S
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not folder.exists()


def test_one_that_cannot_be_killed_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tools = tmp_path / "scratch", tmp_path / "tools"
    for place in (folder, tools):
        place.mkdir()
    # Finds a process that no signal reaches, again and again: its number is beyond what Linux gives.
    find = tools / "find"
    find.write_text(f"#!/bin/sh\necho '/proc/999999999/fd -> {folder}/log'\n")
    find.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(reaper, "ROUNDS", 3)
    monkeypatch.setattr(reaper, "LIMIT_S", 30)
    with reaped(folder):
        pass
    assert not folder.exists()
