"""The HTTPS port: connections, limits and a graceful end. What is served comes from outside."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable

from aiohttp import web

from ..runtime.sockets import listening_socket
from .progress import MAX_BODY_BYTES

SHUTDOWN_S = 5.0
KEEPALIVE_S = 75.0


class HttpsServer:
    """Serves `routes` with the certificate of `context`; `port` 0 takes a free one, `host` None all addresses.

    `port` holds the real one once `run` has set `started`.
    """

    def __init__(
        self, routes: Iterable[web.RouteDef], context: ssl.SSLContext, *, host: str | None = None, port: int = 8443
    ) -> None:
        self.host = host
        self.port = port
        self.started = asyncio.Event()
        self._routes = list(routes)
        self._context = context

    async def run(self) -> None:
        """Serve until cancelled; requests under way may end. Raises OSError when the port cannot be had."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.add_routes(self._routes)
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=SHUTDOWN_S,
        )
        await runner.setup()
        try:
            listening = listening_socket(self.host, self.port)
            await web.SockSite(runner, listening, ssl_context=self._context, backlog=512).start()
            self.port = runner.addresses[0][1]
            self.started.set()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    def problem(self) -> str | None:
        """For a readiness check: None while connections are taken."""
        return None if self.started.is_set() else "the HTTPS port is not open yet"
