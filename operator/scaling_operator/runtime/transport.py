"""Requests to one API server: pooled connections, credentials, timeouts, retries, errors.

Every request ends: ordinary ones have a total timeout, a watch has a limit on silence. Retries are few and
only where a repetition cannot do harm: 429 and 503 with Retry-After were not carried out, and reads, deletes
and idempotent patches may run twice. A create or a replace whose outcome is unknown is reported instead,
because its caller must look before it acts again.

Responses are asked for uncompressed: in-cluster bandwidth is cheaper than the CPU of both ends.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass

import aiohttp
import orjson

from . import metrics
from .connection import Connection
from .errors import ApiError, ServerUnavailableError, UnauthorizedError, from_status
from .objects import Object
from .ratelimit import TokenBucket
from .sockets import Sockets

JSON = "application/json"
CONNECT_TIMEOUT_S = 10.0
MAX_RETRIES = 3
# A server that asks for more patience than this gets it from the caller's queue, not from a held request.
MAX_RETRY_WAIT_S = 5.0

_NETWORK_ERRORS = (aiohttp.ClientError, OSError, TimeoutError, orjson.JSONDecodeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as the retries repeat it; `verb` is Kubernetes' word for it, used in metrics and errors."""

    method: str
    path: str
    verb: str
    params: Mapping[str, str] | None = None
    body: bytes | None = None
    content_type: str = JSON
    accept: str = JSON
    repeatable: bool = False
    guard: Callable[[], None] | None = None


class Transport:
    """Sends requests over connections of its own; `qps` None means no limit on this side."""

    def __init__(
        self,
        connection: Connection,
        *,
        qps: float | None,
        request_timeout_s: float,
        max_connections: int,
        user_agent: str,
    ) -> None:
        self.connection = connection
        self.user_agent = user_agent
        self._bucket = TokenBucket(qps, burst=2 * qps) if qps else None
        self._timeout = aiohttp.ClientTimeout(total=request_timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        self._max_connections = max_connections
        self._sockets = Sockets()
        # Watches have a pool without limit, lest they and the requests wait for each other's connections.
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()
        await self._sockets.hang_up()

    async def request(self, request: Request) -> Object:
        """Send `request`, repeat it where that is harmless, and return the decoded answer.

        Raises a subclass of ApiError; whatever the guard raises passes through.
        """
        for attempt in range(MAX_RETRIES + 1):
            try:
                return await self._once(request)
            except ApiError as exc:
                wait_s = _retry_wait_s(exc, attempt, request.repeatable)
                if wait_s is None or attempt == MAX_RETRIES:
                    raise
                if isinstance(exc, UnauthorizedError):
                    await self.connection.refresh(rejected=True)
            await asyncio.sleep(wait_s)
        raise AssertionError("unreachable")

    async def stream(self, request: Request, *, silence_s: float) -> AsyncGenerator[bytes]:
        """The lines of an answer that goes on for ever; silence and broken connections raise."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=silence_s)
        try:
            async with await self._send(request, timeout) as response:
                if response.status != 200:
                    error = await _error_of(response)
                    if isinstance(error, UnauthorizedError):
                        await self.connection.refresh(rejected=True)
                    raise error
                async for line in _lines(response.content):
                    yield line
        except _NETWORK_ERRORS as exc:
            raise _no_answer(request, exc) from exc

    async def _once(self, request: Request) -> Object:
        if self._bucket is not None:
            await self._bucket.acquire()
        started = time.perf_counter()
        try:
            async with await self._send(request, self._timeout) as response:
                if response.status >= 300:
                    raise await _error_of(response)
                raw = await response.read()
            decoded: Object = orjson.loads(raw) if raw else {}
            return decoded
        except _NETWORK_ERRORS as exc:
            raise _no_answer(request, exc) from exc
        finally:
            metrics.REST_LATENCY.labels(request.verb).observe(time.perf_counter() - started)

    async def _send(self, request: Request, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        connection = self.connection
        await connection.refresh()
        headers = {"Accept": request.accept, "User-Agent": self.user_agent}
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        if connection.authorization is not None:
            headers["Authorization"] = connection.authorization
        # After every wait, so that nothing lies between the check and the sending.
        if request.guard is not None:
            request.guard()
        try:
            response = await self._pool(for_watches=request.verb == "watch").request(
                request.method,
                connection.server + request.path,
                params=request.params,
                data=request.body,
                headers=headers,
                timeout=timeout,
                ssl=connection.ssl_context or True,
                server_hostname=connection.server_hostname,
                proxy=connection.proxy,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError, TimeoutError):
            metrics.REST_REQUESTS.labels("<error>", request.method).inc()
            raise
        metrics.REST_REQUESTS.labels(str(response.status), request.method).inc()
        return response

    def _pool(self, *, for_watches: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(for_watches)
        if session is None:
            session = self._sessions[for_watches] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0 if for_watches else self._max_connections,
                    # Below the API server's own idle limit, so that it is never the one to hang up first.
                    keepalive_timeout=60,
                    socket_factory=self._sockets.open,
                ),
                headers={"Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                # Big watch events arrive in many reads; a larger buffer halves their number.
                read_bufsize=2**18,
            )
        return session


def _retry_wait_s(exc: ApiError, attempt: int, repeatable: bool) -> float | None:
    """Seconds until a failed request may run again; None when the caller has to decide."""
    if isinstance(exc, UnauthorizedError):
        return 0.0 if attempt == 0 else None
    if exc.retry_after_s is not None and exc.status in (429, 503):
        # Jittered, so that all that were refused together do not come back together.
        wait_s = exc.retry_after_s * random.uniform(1.0, 1.3)
        return wait_s if wait_s <= MAX_RETRY_WAIT_S else None
    if repeatable and isinstance(exc, ServerUnavailableError) and exc.reason != "TimeoutError":
        return 0.1 * 2.0**attempt * random.uniform(0.5, 1.5)
    return None


async def _error_of(response: aiohttp.ClientResponse) -> ApiError:
    raw = await response.read()
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    retry_after = response.headers.get("Retry-After", "")
    return from_status(
        response.status,
        body if isinstance(body, dict) else None,
        fallback=raw[:200].decode(errors="replace").strip(),
        retry_after_s=float(retry_after) if retry_after.isdigit() else None,
    )


def _no_answer(request: Request, exc: Exception) -> ServerUnavailableError:
    timed_out = isinstance(exc, TimeoutError)
    reason = "TimeoutError" if timed_out else type(exc).__name__
    what = "timed out" if timed_out else f"failed: {exc or reason}"
    return ServerUnavailableError(0, reason, f"{request.verb} {request.path} {what}")


async def _lines(stream: aiohttp.StreamReader) -> AsyncGenerator[bytes]:
    """Newline-terminated lines of any length, split once per read; StreamReader.readline bounds the length."""
    rest: list[bytes] = []
    async for chunk in stream.iter_any():
        head, newline, tail = chunk.rpartition(b"\n")
        if not newline:
            rest.append(chunk)
            continue
        rest.append(head)
        for line in b"".join(rest).split(b"\n"):
            if line:
                yield line
        rest = [tail] if tail else []
