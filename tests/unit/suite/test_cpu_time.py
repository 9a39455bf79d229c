"""CPU seconds by the kernel's accounts, in each form that they have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import cpu_time

_V2 = "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n"


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        pytest.param("3:cpuacct:/a\n0::/\n", {"cpuacct/a/cpuacct.usage": "2500000000\n"}, id="version 1"),
        pytest.param(
            "3:cpu,cpuacct:/a\n2:memory:/b\n", {"cpu,cpuacct/a/cpuacct.usage": "2500000000\n"}, id="two controllers"
        ),
        pytest.param(
            "3:cpuacct:/docker/1f\n", {"cpuacct/cpuacct.usage": "2500000000\n"}, id="a path of the machine's, version 1"
        ),
        pytest.param("0::/user.slice/a\n", {"user.slice/a/cpu.stat": _V2}, id="version 2"),
        pytest.param("0::/../../pod\n", {"cpu.stat": _V2}, id="a path of the machine's, version 2"),
    ],
)
def test_the_control_groups_account_is_read(tmp_path: Path, membership: str, files: dict[str, str]) -> None:
    groups = tmp_path / "groups"
    for name, content in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(content)
    (tmp_path / "membership").write_text(membership)
    assert cpu_time.used(tmp_path / "membership", groups) == cpu_time.CpuTime(2.5, cpu_time.CONTROL_GROUP)


def test_without_one_what_was_waited_for_is_counted_and_said_to_be_less(tmp_path: Path) -> None:
    before = cpu_time.used(tmp_path / "absent", tmp_path)
    subprocess.run([sys.executable, "-c", "sum(range(10**6))"], check=True)
    spent = cpu_time.used(tmp_path / "absent", tmp_path).since(before)
    assert spent.seconds > 0
    assert spent.of == cpu_time.CHILDREN
