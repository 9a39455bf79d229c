"""The Lease endpoints of an API server, with faults that can be switched on per client (by User-Agent)."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from aiohttp import web

from scaling_operator.runtime.connection import Connection

Fault = Literal["hang", "drop", "fail", "answer lost"]

COLLECTION = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"


class LeaseServer:
    """Holds at most one Lease; `faults[user_agent]` decides how that client is treated."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.faults: dict[str, Fault] = {}
        self.writes: list[tuple[float, str]] = []
        self._version = 100
        self._closing = asyncio.Event()
        self._port = 0

    def connection(self) -> Connection:
        """A connection to this server."""
        return Connection(f"http://127.0.0.1:{self._port}")

    @property
    def holder(self) -> str | None:
        """Who stands in the lease; None if there is none."""
        return None if self.lease is None else self.lease["spec"]["holderIdentity"]

    def overwrite(self, **spec: Any) -> None:
        """Change the lease behind everybody's back, creating it if need be."""
        lease = self.lease or {"metadata": {"name": "operator"}, "spec": {}}
        self._store({**lease, "spec": {**lease["spec"], **spec}})

    async def __aenter__(self) -> LeaseServer:
        app = web.Application()
        app.router.add_get(f"{COLLECTION}/operator", self._get)
        app.router.add_post(COLLECTION, self._create)
        app.router.add_put(f"{COLLECTION}/operator", self._replace)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._closing.set()
        await self._runner.cleanup()

    async def _get(self, request: web.Request) -> web.Response:
        await self._suffer(request)
        if self.lease is None:
            return _refusal(404, "NotFound")
        return web.json_response(self.lease)

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        await self._suffer(request)
        if self.lease is not None:
            return _refusal(409, "AlreadyExists")
        return self._accept(request, body)

    async def _replace(self, request: web.Request) -> web.Response:
        body = await request.json()
        await self._suffer(request)
        if self.lease is None:
            return _refusal(404, "NotFound")
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            return _refusal(409, "Conflict")
        return self._accept(request, body)

    def _accept(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        self._store(body)
        client = request.headers["User-Agent"]
        self.writes.append((asyncio.get_running_loop().time(), client))
        if self.faults.get(client) == "answer lost":
            del self.faults[client]
            _abort(request)
        return web.json_response(self.lease)

    def _store(self, body: dict[str, Any]) -> None:
        self._version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self._version)}}

    async def _suffer(self, request: web.Request) -> None:
        match self.faults.get(request.headers["User-Agent"]):
            case "hang":
                await self._closing.wait()
            case "drop":
                _abort(request)
            case "fail":
                raise web.HTTPInternalServerError


def _abort(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


def _refusal(status: int, reason: str) -> web.Response:
    return web.json_response({"kind": "Status", "reason": reason, "message": reason}, status=status)
