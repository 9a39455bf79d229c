"""The runner of the whole suite: two commands at once, one verdict."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import lanes
from tests.cpu_time import CpuTime

REPOSITORY = Path(__file__).parents[3]


def python(code: str) -> list[str]:
    """A command whose further arguments, pytest's, are there for it to use or not."""
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("own_clusters", [True, False])
def test_every_test_is_in_one_lane(own_clusters: bool) -> None:
    files = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "tests").rglob("test_*.py")}
    taken: list[str] = []
    for arguments in lanes.lanes(own_clusters=own_clusters).values():
        ignored = {argument.removeprefix("--ignore=") for argument in arguments if argument.startswith("--ignore=")}
        for path in arguments:
            taken += [file for file in files - ignored if file == path or file.startswith(f"{path}/")]
    assert sorted(taken) == sorted(files)


@pytest.mark.parametrize(
    ("codes", "whole"),
    [
        pytest.param([0, 0], 0, id="both passed"),
        pytest.param([0, 1], 1, id="one failed"),
        pytest.param([2, 1], 2, id="one was interrupted, the other failed"),
        pytest.param([137, 0], 137, id="one was killed"),
        pytest.param([5, 0], 0, id="one had nothing to run"),
        pytest.param([5, 1], 1, id="one had nothing to run, the other failed"),
        pytest.param([5, 5], 5, id="there was nothing to run"),
    ],
)
def test_the_exit_code_is_the_worst_one(codes: list[int], whole: int) -> None:
    assert lanes.worst(codes) == whole


def test_lanes_run_at_once_and_all_that_they_say_is_seen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # Each waits for a file of the other one.
    meet = (
        "import sys, time, pathlib\n"
        "mine, other = (pathlib.Path(name) for name in sys.argv[1:3])\n"
        "mine.touch()\n"
        "while not other.exists(): time.sleep(0.01)\n"
        "print('first'); print('3 passed'); sys.exit(int(sys.argv[3]))"
    )
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert lanes.run({"one": [*python(meet), a, b, "0"], "other": [*python(meet), b, a, "1"]}) == 1
    told = capfd.readouterr().out.splitlines()
    assert {"one | first", "other | first"} <= set(told)
    assert told[-2:] == ["one | 3 passed", "other | 3 passed"], "both closing lines are the last"
    assert any("CPU seconds" in line for line in told)


def test_what_took_longest_is_named_whichever_lane_it_was_in(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = {}
    for name, seconds in (("quick", 0.0), ("slow", 0.3)):
        files[name] = tmp_path / f"test_{name}.py"
        files[name].write_text(f"import time\ndef test_it():\n    time.sleep({seconds})\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
    assert lanes.run({name: [*command, str(file)] for name, file in files.items()}) == 0
    told = capfd.readouterr().out.splitlines()
    first = told[told.index("What took longest, set-up included:") + 1]
    assert first.split() == ["0.3", "s", "test_slow::test_it"]
    assert "1 passed" in told[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_both_lanes_in_order(tmp_path: Path, number: signal.Signals) -> None:
    # A lane that has something to put away, which takes a moment.
    lane = (
        "import sys, time, pathlib\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "(folder / ('begun-' + sys.argv[1])).touch()\n"
        "try:\n"
        "    time.sleep(600)\n"
        "except KeyboardInterrupt:\n"
        "    time.sleep(0.3)\n"
        "    (folder / ('put-away-' + sys.argv[1])).touch()\n"
        "    sys.exit(2)"
    )
    runner = (
        "import sys; from tests import lanes\n"
        f"sys.exit(lanes.run({{name: [sys.executable, '-c', {lane!r}, name] for name in 'ab'}}))"
    )
    with subprocess.Popen([sys.executable, "-c", runner], cwd=REPOSITORY, start_new_session=True) as process:
        until = time.monotonic() + 120
        while len(list(tmp_path.glob("begun-*"))) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        # As a terminal does it: the whole foreground group is told.
        os.killpg(process.pid, number)
        assert process.wait(120) == 2
    assert {path.name for path in tmp_path.glob("put-away-*")} == {"put-away-a", "put-away-b"}


def test_what_was_used_is_said_beside_what_may_be() -> None:
    used = CpuTime(1234.5, "all of it")
    assert lanes.budget(754.9, used) == "12:34 of at most 20:00 minutes, 1,234 of 2,400 CPU seconds (all of it)"


def test_without_root_one_line_says_what_was_not_run_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    lanes.run({"one": python("print('3 passed')")})
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("Not run: ")]
    assert line.startswith("Not run: tests/cluster: ")
    assert "root" in line
    assert "KUBECONFIG" in line
    assert "make cluster" in line
