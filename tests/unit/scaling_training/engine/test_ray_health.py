"""The driver notices that Ray's processes on the head are frozen, and never takes its own absence for that."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from scaling_training.engine import ray_health
from scaling_training.engine.ray_health import SILENT_S, Answers, Silent, watched

# Answers gRPC's health protocol on a free port, which it prints first, as Ray's servers do.
_SERVER = """
import grpc, sys
from concurrent.futures import ThreadPoolExecutor

class Health(grpc.GenericRpcHandler):
    def service(self, call):
        if call.method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: bytes([8, 1]))

server = grpc.server(ThreadPoolExecutor(1), handlers=[Health()])
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
"""


@pytest.fixture
def server() -> Iterator[tuple[int, str]]:
    """A server's process id and address."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.pid, f"127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_health, "FIRST_AFTER_S", 0.0)
    monkeypatch.setattr(ray_health, "ASK_EVERY_S", 0.1)
    monkeypatch.setattr(ray_health, "ANSWER_LIMIT_S", 0.5)
    monkeypatch.setattr(ray_health, "LOOK_EVERY_S", 0.05)


def test_time_counts_from_the_last_answer_of_who_has_answered_once() -> None:
    answers = Answers(now=0.0)
    assert _look(answers, 0.0, 100.0) is None, "nobody has answered yet: there may be no such server"
    answers.answered("gcs", now=100.0)
    answers.answered("raylet", now=100.0)
    assert _look(answers, 100.0, 120.0) is None
    answers.answered("gcs", now=120.0)
    assert _look(answers, 120.0, 100.0 + SILENT_S - 0.5) is None
    assert _look(answers, 100.0 + SILENT_S - 0.5, 100.0 + SILENT_S) == Silent("raylet", SILENT_S)


def test_time_in_which_the_driver_itself_did_not_run_does_not_count() -> None:
    answers = Answers(now=0.0)
    answers.answered("gcs", now=0.0)
    for hour in range(1, 20):
        assert answers.look(now=3600.0 * hour) is None


def _look(answers: Answers, since: float, until: float) -> Silent | None:
    """What is found at ``until`` by one who has looked twice a second."""
    for tick in range(int(2 * since) + 1, int(2 * until)):
        assert answers.look(now=tick / 2) is None, tick / 2
    return answers.look(now=until)


def test_a_server_that_freezes_is_named(server: tuple[int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_health, "SILENT_S", 1.5)
    pid, address = server
    found: list[Silent] = []
    told, asked = threading.Event(), threading.Event()

    def silent(who: Silent) -> None:
        found.append(who)
        told.set()

    question = ray_health._asking(lambda: address)

    def ask() -> None:
        question()
        asked.set()

    with watched({"raylet": ask, "gcs": lambda: None}, silent):
        assert asked.wait(20)
        assert not told.wait(2.5), "it answers"
        os.kill(pid, signal.SIGSTOP)
        assert told.wait(10)
    assert [who.name for who in found] == ["raylet"]
    assert str(found[0]).startswith("raylet did not answer the driver for 2 s: its processes are frozen")


def test_the_interpreters_lock_may_be_held_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_health, "SILENT_S", 1.5)
    found: list[Silent] = []
    with watched({"gcs": lambda: None}, found.append):
        # A library called in this way keeps the lock.
        ctypes.PyDLL(None).usleep(3_000_000)
        assert not threading.Event().wait(0.5)
    assert found == []
