"""An HTTP server that answers as scripted: what an API server does on a bad day, on cue.

Each (method, path) has a list of answers, used one per request; the last one is used again when the list runs
out. Watches are scripted under the method "WATCH". All requests are recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import orjson
from aiohttp import web

from scaling_operator.runtime.connection import Connection
from scaling_operator.runtime.objects import Object

Answer: TypeAlias = Callable[["ScriptedServer", web.Request], Awaitable[web.StreamResponse]]
End = Literal["close", "hang", "drop"]


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived, and when (by the event loop's clock)."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    at: float


class ScriptedServer:
    """Use as `async with ScriptedServer() as server`; `server.connection()` leads to it."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.closing = asyncio.Event()
        self._script: dict[tuple[str, str], list[Answer]] = {}
        self._port = 0

    def on(self, method: str, path: str, *answers: Answer) -> None:
        """Script the answers to `method` on `path`, replacing what is left of an earlier script."""
        self._script[method, path] = list(answers)

    def connection(self) -> Connection:
        """A connection to this server."""
        return Connection(f"http://127.0.0.1:{self._port}")

    def requests(self, method: str) -> list[Received]:
        """What was received under `method` ("WATCH" for watches)."""
        return [request for request in self.received if request.method == method]

    async def __aenter__(self) -> ScriptedServer:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.closing.set()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        method = "WATCH" if request.query.get("watch") else request.method
        self.received.append(
            Received(
                method,
                request.path,
                dict(request.query),
                dict(request.headers),
                orjson.loads(raw) if raw else None,
                asyncio.get_running_loop().time(),
            )
        )
        answers = self._script.get((method, request.path))
        if not answers:
            return web.json_response({"message": f"nothing scripted for {method} {request.path}"}, status=404)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return await answer(self, request)


def answer(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """A JSON body."""

    async def send(_: ScriptedServer, __: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status, headers=headers)

    return send


def failure(
    status: int, reason: str, message: str = "no", *, retry_after_s: int | None = None, **details: Any
) -> Answer:
    """A `Status` object as the API server sends it."""
    body = {"kind": "Status", "code": status, "reason": reason, "message": message, "details": details}
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else None
    return answer(body, status=status, headers=headers)


def listing(*objects: Object, version: int, token: str | None = None) -> Answer:
    """A page of a PodList."""
    metadata = {"resourceVersion": str(version)} | ({"continue": token} if token else {})
    return answer({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": list(objects)})


def hang() -> Answer:
    """No answer at all until the server is closed."""

    async def send(server: ScriptedServer, _: web.Request) -> web.StreamResponse:
        await server.closing.wait()
        return web.Response()

    return send


def drop() -> Answer:
    """The connection breaks before any answer."""

    async def send(_: ScriptedServer, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return send


def stream(*events: tuple[str, Object], end: End = "hang", raw: bytes = b"") -> Answer:
    """Watch events (then `raw` bytes), after which the server closes, goes silent, or drops the connection."""

    async def send(server: ScriptedServer, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for kind, obj in events:
            await response.write(orjson.dumps({"type": kind, "object": obj}) + b"\n")
        if raw:
            await response.write(raw)
        if end == "hang":
            await server.closing.wait()
        if end == "drop" and request.transport is not None:
            request.transport.abort()
        return response

    return send


def pod(name: str, version: int, **fields: Any) -> Object:
    """A pod in namespace "ns" at `version`."""
    return {"metadata": {"namespace": "ns", "name": name, "resourceVersion": str(version)}, **fields}


def bookmark(version: int) -> tuple[str, Object]:
    """A bookmark event."""
    return "BOOKMARK", {"metadata": {"resourceVersion": str(version)}}


async def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait for something that no event announces, such as what the server has received."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
