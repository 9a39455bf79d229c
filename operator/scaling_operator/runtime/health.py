"""The operator's HTTP port: /healthz, /readyz and /metrics.

`/healthz` asks whether a restart would help, `/readyz` whether the process does its job now; both run named
checks and answer 200, or 500/503 with the failing ones and their reasons. A check returns None when all is
well, else a sentence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeAlias

from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from .sockets import listening_socket

logger = logging.getLogger(__name__)

Check: TypeAlias = Callable[[], str | None]


class HealthServer:
    """Serves the checks registered in `liveness` and `readiness` and the metrics of `registry`.

    `host` None are all addresses; `port` 0 takes a free one; `port` holds the real one once `run` has set `started`.
    """

    def __init__(self, *, host: str | None = None, port: int = 8080, registry: CollectorRegistry = REGISTRY) -> None:
        self.host = host
        self.port = port
        self.liveness: dict[str, Check] = {}
        self.readiness: dict[str, Check] = {}
        self.started = asyncio.Event()
        self._registry = registry

    async def run(self) -> None:
        """Serve until cancelled. Raises OSError when the port cannot be had."""
        # A timestamp beside every counter would nearly double the number of series, and nobody reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.SockSite(runner, listening_socket(self.host, self.port)).start()
            self.port = runner.addresses[0][1]
            self.started.set()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return _answer(self.liveness, 500)

    async def _readyz(self, request: web.Request) -> web.Response:
        return _answer(self.readiness, 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _answer(checks: dict[str, Check], failing_status: int) -> web.Response:
    problems = {name: problem for name, check in checks.items() if (problem := check()) is not None}
    if not problems:
        return web.Response(text="ok\n")
    text = "".join(f"{name}: {problem}\n" for name, problem in problems.items())
    return web.Response(status=failing_status, text=text)
