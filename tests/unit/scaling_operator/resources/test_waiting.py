"""The wait of a worker, as bash runs it, with a DNS that is a script."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from scaling_operator.resources.waiting import FIRST_PAUSE_MS, LONGEST_PAUSE_MS, TRIES, wait_for_head

# How long a loaded machine may take.
LIMIT_S = 60


class Dns:
    """Answers `getent`, and notes what was asked, and when."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.joinpath("log").touch()
        self.resolv_conf = folder / "resolv.conf"
        self.resolv_conf.write_text("nameserver 10.0.0.10\nsearch team.svc.example.org svc.example.org example.org\n")
        program = folder / "getent"
        program.write_text(f"#!/bin/sh\necho $2 $(date +%s%N) >> {folder}/log\ncat {folder}/address\n")
        program.chmod(0o755)

    def answer(self, address: str) -> None:
        """The name has this address from now on."""
        written = self._folder / "new"
        written.write_text(f"{address}       STREAM head\n{address}       DGRAM\n")
        written.rename(self._folder / "address")

    def asked(self) -> list[tuple[str, float]]:
        """The names that were asked for, and the seconds at which."""
        lines = (line.split() for line in (self._folder / "log").read_text().splitlines())
        return [(name, int(at) / 1e9) for name, at in lines]

    def wait_asked(self, count: int) -> None:
        """Until so many questions have come."""
        deadline = time.monotonic() + LIMIT_S
        while len(self.asked()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    @contextmanager
    def waiting(self, port: int, *, tries: int = TRIES) -> Iterator[subprocess.Popen[str]]:
        """A worker that waits for the port; it says where the head is when it is there."""
        script = (
            f'{wait_for_head("mnist-2", "team", port, resolv_conf=str(self.resolv_conf), tries=tries)}; echo "$head"'
        )
        environment = os.environ | {"PATH": f"{self._folder}:{os.environ['PATH']}"}
        with subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def dns(tmp_path: Path) -> Dns:
    return Dns(tmp_path)


@pytest.fixture
def closed_port() -> Iterator[socket.socket]:
    """A port that is ours and takes no connections before `listen`."""
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", 0))
        yield ours


@pytest.mark.parametrize(
    ("configuration", "name"),
    [
        pytest.param(
            "search team.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n",
            "mnist-2.team.svc.cluster.local.",
            id="as a cluster has it",
        ),
        pytest.param(
            "search corp.example team.svc.k8s.example.\n", "mnist-2.team.svc.k8s.example.", id="another domain"
        ),
        pytest.param("nameserver 8.8.8.8\n", "mnist-2.team.svc", id="the user's own configuration"),
        pytest.param("search steam.svc.cluster.local\n", "mnist-2.team.svc", id="another namespace's"),
    ],
)
def test_the_name_is_absolute(dns: Dns, closed_port: socket.socket, configuration: str, name: str) -> None:
    dns.resolv_conf.write_text(configuration)
    dns.answer("127.0.0.1")
    closed_port.listen()
    with dns.waiting(closed_port.getsockname()[1]) as process:
        assert process.communicate(timeout=LIMIT_S)[0] == f"{name}\n"
    assert [asked for asked, _ in dns.asked()] == [name]


def test_the_wait_ends_when_the_port_opens_and_meanwhile_asks_nobody_else(dns: Dns, closed_port: socket.socket) -> None:
    dns.answer("127.0.0.1")
    with dns.waiting(closed_port.getsockname()[1], tries=10_000) as process:
        dns.wait_asked(1)
        time.sleep(1.0)  # several tries
        assert process.poll() is None
        closed_port.listen()
        process.communicate(timeout=LIMIT_S)
    assert len(dns.asked()) == 1


def test_questions_for_an_address_that_there_is_not_become_rare(dns: Dns, closed_port: socket.socket) -> None:
    with dns.waiting(closed_port.getsockname()[1]) as process:
        dns.wait_asked(6)
        closed_port.listen()
        dns.answer("127.0.0.1")
        process.communicate(timeout=LIMIT_S)
    times = [at for _, at in dns.asked()]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    for number, pause in enumerate(pauses):
        assert pause > 0.74 * min(FIRST_PAUSE_MS * 1.4**number, LONGEST_PAUSE_MS) / 1000


def test_an_address_that_changes_is_found(dns: Dns, closed_port: socket.socket) -> None:
    dns.answer("127.0.0.2")
    closed_port.listen()
    with dns.waiting(closed_port.getsockname()[1], tries=2) as process:
        dns.wait_asked(1)
        dns.answer("127.0.0.1")
        process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0


def test_an_image_without_getent_does_as_well(dns: Dns, closed_port: socket.socket, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "grep", "sleep"):
        (tools / tool).symlink_to(f"/bin/{tool}")
    dns.resolv_conf.write_text("")
    closed_port.listen()
    script = wait_for_head("mnist-2", "team", closed_port.getsockname()[1], resolv_conf=str(dns.resolv_conf))
    script = script.replace("head=mnist-2.team.svc", "head=localhost")
    assert subprocess.run(["/bin/bash", "-c", script], timeout=LIMIT_S, env={"PATH": str(tools)}).returncode == 0


@pytest.mark.parametrize("resolved", [False, True], ids=["no address yet", "no port yet"])
def test_the_wait_ends_with_sigterm(dns: Dns, closed_port: socket.socket, resolved: bool) -> None:
    if resolved:
        dns.answer("127.0.0.1")
    with dns.waiting(closed_port.getsockname()[1]) as process:
        dns.wait_asked(1)
        process.terminate()
        assert process.wait(LIMIT_S) == 143
