"""The driver's HTTP port."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import requests

from scaling_training.health import HealthServer, PortTakenError


@pytest.fixture
def port() -> Iterator[int]:
    server = HealthServer(0)
    yield server.port
    server.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_it_answers_on_addresses_of_both_families(port: int, host: str) -> None:
    if host == "[::1]" and not socket.has_dualstack_ipv6():
        pytest.skip("this kernel has no IPv6")
    answer = requests.get(f"http://{host}:{port}/healthz", timeout=5)
    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert requests.get(f"http://{host}:{port}/else", timeout=5).status_code == 404


def test_who_says_nothing_or_goes_away_keeps_nobody_waiting(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(("127.0.0.1", port)):
        assert requests.get(f"http://127.0.0.1:{port}/healthz", timeout=2).ok
    assert requests.get(f"http://127.0.0.1:{port}/healthz", timeout=2).ok
    assert caplog.text == ""


def test_a_port_that_is_taken_is_said_in_a_sentence(port: int) -> None:
    with pytest.raises(PortTakenError, match=f"cannot open port {port}: .*; nothing else may use it"):
        HealthServer(port)
