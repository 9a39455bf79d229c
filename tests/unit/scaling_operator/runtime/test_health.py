from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from scaling_operator.runtime.health import HealthServer


@pytest.fixture
async def health() -> AsyncIterator[HealthServer]:
    registry = CollectorRegistry()
    Counter("things_total", "Things", registry=registry).inc(3)
    server = HealthServer(host="127.0.0.1", port=0, registry=registry)
    task = asyncio.create_task(server.run())
    await asyncio.wait_for(server.started.wait(), 60)
    yield server
    task.cancel()
    await asyncio.wait({task})


async def fetch(health: HealthServer, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    url = f"http://{host}:{health.port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def test_all_well(health: HealthServer) -> None:
    health.liveness["loop"] = lambda: None
    assert await fetch(health, "/healthz") == (200, "ok\n")
    assert await fetch(health, "/readyz") == (200, "ok\n")


async def test_failing_checks_are_named(health: HealthServer) -> None:
    health.liveness["lease"] = lambda: "has run out"
    health.readiness["caches"] = lambda: "not yet listed: pods"
    health.readiness["fine"] = lambda: None
    assert await fetch(health, "/healthz") == (500, "lease: has run out\n")
    assert await fetch(health, "/readyz") == (503, "caches: not yet listed: pods\n")


async def test_metrics_without_creation_times(health: HealthServer) -> None:
    status, text = await fetch(health, "/metrics")
    assert status == 200
    assert "things_total 3.0" in text
    assert "_created" not in text


async def test_a_port_in_use_is_an_error(health: HealthServer) -> None:
    with pytest.raises(OSError, match="in use"):
        await HealthServer(host="127.0.0.1", port=health.port).run()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_it_answers_on_addresses_of_both_families(host: str) -> None:
    if host == "[::1]" and not socket.has_dualstack_ipv6():
        pytest.skip("this kernel has no IPv6")
    health = HealthServer(port=0, registry=CollectorRegistry())
    task = asyncio.create_task(health.run())
    await asyncio.wait_for(health.started.wait(), 60)
    assert await fetch(health, "/healthz", host) == (200, "ok\n")
    task.cancel()
    await asyncio.wait({task})
