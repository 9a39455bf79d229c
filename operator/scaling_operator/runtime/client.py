"""A small Kubernetes API client: JSON dicts over one pooled HTTP session, errors sorted by reaction.

Every request ends: ordinary ones have a total timeout, a watch has the server's `timeoutSeconds` and a limit
on silence. Retries are few and only where a repetition cannot do harm: 429 and 503 with Retry-After were not
carried out, and reads, deletes and idempotent patches may run twice. A create or a replace whose outcome is
unknown is reported instead, because its caller must look before it acts again.

Responses are asked for uncompressed: in-cluster bandwidth is cheaper than the CPU of both ends.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import aiohttp
import orjson

from . import metrics
from .connection import Connection, find_connection
from .errors import ApiError, ServerUnavailableError, UnauthorizedError, from_status
from .objects import Object, resource_path
from .ratelimit import TokenBucket
from .sockets import open_socket

__all__ = ["APPLY_PATCH", "JSON_PATCH", "MERGE_PATCH", "ApiClient", "ListResult", "resource_path"]

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

REQUEST_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 10.0
MAX_RETRIES = 3
# A server that asks for more patience than this gets it from the caller's queue, not from a held request.
MAX_RETRY_WAIT_S = 5.0
# Bookmarks come every minute: two missing ones and a half mean that nobody is there.
WATCH_SILENCE_S = 150.0
PAGE_SIZE = 500
DEFAULT_QPS = 500.0

_JSON = "application/json"
_METADATA_ONLY = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1,application/json"
_REPEATABLE = frozenset({"GET", "DELETE"})
_REPEATABLE_PATCHES = frozenset({MERGE_PATCH, APPLY_PATCH})

EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
Propagation = Literal["Background", "Foreground", "Orphan"]


class ListResult(NamedTuple):
    """A complete, consistent list: every item as of `resource_version`."""

    items: list[Object]
    resource_version: str


class _Page(NamedTuple):
    items: list[Object]
    resource_version: str
    api_version: str
    kind: str


class ApiClient:
    """Talks to one API server; use as an async context manager or call `close`.

    `write_guard`, when given, is called before each request that changes something and may raise: leader
    election uses it so that a process which lost its lease while frozen cannot write one more time.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        qps: float | None = DEFAULT_QPS,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        max_connections: int = 100,
        user_agent: str = "scaling-operator",
        write_guard: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self._bucket = TokenBucket(qps, burst=2 * qps) if qps else None
        self._request_timeout_s = request_timeout_s
        self._max_connections = max_connections
        self._user_agent = user_agent
        self._write_guard = write_guard
        self._session: aiohttp.ClientSession | None = None
        self._parent: ApiClient | None = None

    @classmethod
    async def load(cls, kubeconfig: str | None = None, **options: Any) -> ApiClient:
        """A client for `kubeconfig`, $KUBECONFIG, the pod's service account or ~/.kube/config, in this order.

        `options` go to the constructor. Raises ConfigurationError when there is no usable configuration.
        """
        return cls(await find_connection(kubeconfig), **options)

    def separate(self, *, request_timeout_s: float) -> ApiClient:
        """A client of the same server with its own connections and no rate limit, to be closed on its own.

        For the few requests that must never queue behind others, such as renewals of a lease.
        """
        return ApiClient(
            self._connection,
            qps=None,
            request_timeout_s=request_timeout_s,
            max_connections=4,
            user_agent=self._user_agent,
        )

    def guarded(self, write_guard: Callable[[], None]) -> ApiClient:
        """This client, its connections and its rate limit, with `write_guard` before each write."""
        client = ApiClient(
            self._connection,
            qps=None,
            request_timeout_s=self._request_timeout_s,
            user_agent=self._user_agent,
            write_guard=write_guard,
        )
        client._bucket = self._bucket
        client._parent = self._parent or self
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; those of a guarded client belong to its origin and stay."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, path: str, *, metadata_only: bool = False) -> Object:
        """Read one object (or any JSON document) at `path`."""
        return await self._request("GET", path, verb="get", metadata_only=metadata_only)

    async def list(
        self,
        path: str,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int = PAGE_SIZE,
        metadata_only: bool = False,
    ) -> ListResult:
        """Read a whole collection, consistently, in pages of `limit`.

        Raises ExpiredError when the snapshot being paged through was compacted meanwhile.
        """
        items: list[Object] = []
        resource_version = ""
        async for page in self.list_pages(
            path,
            label_selector=label_selector,
            field_selector=field_selector,
            limit=limit,
            metadata_only=metadata_only,
        ):
            items += page.items
            resource_version = page.resource_version
        return ListResult(items, resource_version)

    async def list_pages(
        self,
        path: str,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int = PAGE_SIZE,
        metadata_only: bool = False,
    ) -> AsyncIterator[_Page]:
        """The pages of a consistent list, one decoded at a time; items carry no apiVersion and kind."""
        params = _selectors(label_selector, field_selector)
        params["limit"] = str(limit)
        while True:
            body = await self._request("GET", path, verb="list", params=params, metadata_only=metadata_only)
            metadata = body.get("metadata") or {}
            yield _Page(
                body.get("items") or [],
                metadata.get("resourceVersion", ""),
                body.get("apiVersion", ""),
                body.get("kind", "").removesuffix("List"),
            )
            token = metadata.get("continue")
            if not token:
                return
            params["continue"] = token

    async def create(self, path: str, body: Object, *, params: Mapping[str, str] | None = None) -> Object:
        """Create `body` in the collection `path` (or post it to a subresource) and return what was stored.

        Raises AlreadyExistsError. After ServerUnavailableError the object may or may not exist.
        """
        return await self._request("POST", path, verb="create", body=body, params=params)

    async def replace(self, path: str, body: Object) -> Object:
        """Store `body` in place of the object; its resourceVersion, if any, must still be current.

        Raises ConflictError when it is not.
        """
        return await self._request("PUT", path, verb="update", body=body)

    async def patch(
        self,
        path: str,
        body: Any,
        *,
        content_type: str = MERGE_PATCH,
        params: Mapping[str, str] | None = None,
    ) -> Object:
        """Patch the object; server-side apply takes APPLY_PATCH and `params` with fieldManager (and force)."""
        return await self._request("PATCH", path, verb="patch", body=body, content_type=content_type, params=params)

    async def delete(
        self,
        path: str,
        *,
        grace_period_s: int | None = None,
        uid: str | None = None,
        propagation: Propagation | None = None,
    ) -> Object:
        """Delete the object and return the server's answer (the object while it terminates, or a Status).

        With `uid` a successor of the same name is left alone (ConflictError). Raises NotFoundError.
        """
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if propagation is not None:
            options["propagationPolicy"] = propagation
        return await self._request("DELETE", path, verb="delete", body=options)

    async def watch(
        self,
        path: str,
        *,
        resource_version: str,
        label_selector: str | None = None,
        field_selector: str | None = None,
        metadata_only: bool = False,
        timeout_s: float,
        silence_s: float = WATCH_SILENCE_S,
    ) -> AsyncIterator[tuple[EventType, Object]]:
        """Events after `resource_version`, bookmarks included, until the server ends the watch.

        `timeout_s` asks the server to end it; `silence_s` without a byte raises ServerUnavailableError, as
        does a broken connection. ExpiredError means that the version is too old: list again.
        """
        params = _selectors(label_selector, field_selector)
        params |= {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, round(timeout_s))),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=silence_s)
        try:
            async with await self._send(
                "GET", path, "watch", params=params, metadata_only=metadata_only, timeout=timeout
            ) as response:
                if response.status != 200:
                    error = await _error_of(response)
                    if isinstance(error, UnauthorizedError):
                        await self._connection.refresh(rejected=True)
                    raise error
                async for line in _lines(response.content):
                    event = orjson.loads(line)
                    kind, obj = event["type"], event["object"]
                    if kind == "ERROR":
                        raise from_status(int(obj.get("code") or 500), obj)
                    yield kind, obj
        except (aiohttp.ClientError, OSError, TimeoutError, orjson.JSONDecodeError) as exc:
            raise _no_answer("watch", path, exc) from exc

    async def _request(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        body: Any = None,
        content_type: str = _JSON,
        params: Mapping[str, str] | None = None,
        metadata_only: bool = False,
    ) -> Object:
        data = None if body is None else orjson.dumps(body)
        repeatable = method in _REPEATABLE or (method == "PATCH" and content_type in _REPEATABLE_PATCHES)
        timeout = aiohttp.ClientTimeout(total=self._request_timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        for attempt in range(MAX_RETRIES + 1):
            try:
                return await self._once(method, path, verb, data, content_type, params, metadata_only, timeout)
            except ApiError as exc:
                wait_s = _retry_wait_s(exc, attempt, repeatable)
                if wait_s is None or attempt == MAX_RETRIES:
                    raise
                if isinstance(exc, UnauthorizedError):
                    await self._connection.refresh(rejected=True)
            await asyncio.sleep(wait_s)
        raise AssertionError("unreachable")

    async def _once(
        self,
        method: str,
        path: str,
        verb: str,
        data: bytes | None,
        content_type: str,
        params: Mapping[str, str] | None,
        metadata_only: bool,
        timeout: aiohttp.ClientTimeout,
    ) -> Object:
        started = time.perf_counter()
        try:
            async with await self._send(
                method,
                path,
                verb,
                params=params,
                metadata_only=metadata_only,
                timeout=timeout,
                data=data,
                content_type=content_type,
            ) as response:
                if response.status >= 300:
                    raise await _error_of(response)
                raw = await response.read()
            decoded: Object = orjson.loads(raw) if raw else {}
            return decoded
        except (aiohttp.ClientError, OSError, TimeoutError, orjson.JSONDecodeError) as exc:
            raise _no_answer(verb, path, exc) from exc
        finally:
            metrics.REST_LATENCY.labels(verb).observe(time.perf_counter() - started)

    async def _send(
        self,
        method: str,
        path: str,
        verb: str,
        *,
        params: Mapping[str, str] | None,
        metadata_only: bool,
        timeout: aiohttp.ClientTimeout,
        data: bytes | None = None,
        content_type: str = _JSON,
    ) -> aiohttp.ClientResponse:
        if self._bucket is not None and verb != "watch":
            await self._bucket.acquire()
        connection = self._connection
        await connection.refresh()
        # After every wait, so that nothing lies between the check and the sending.
        if method != "GET" and self._write_guard is not None:
            self._write_guard()
        headers = {"Accept": _METADATA_ONLY if metadata_only else _JSON, "User-Agent": self._user_agent}
        if data is not None:
            headers["Content-Type"] = content_type
        if connection.authorization is not None:
            headers["Authorization"] = connection.authorization
        try:
            response = await self._pool().request(
                method,
                connection.server + path,
                params=params,
                data=data,
                headers=headers,
                timeout=timeout,
                ssl=connection.ssl_context or True,
                server_hostname=connection.server_hostname,
                proxy=connection.proxy,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError, TimeoutError):
            metrics.REST_REQUESTS.labels("<error>", method).inc()
            raise
        metrics.REST_REQUESTS.labels(str(response.status), method).inc()
        return response

    def _pool(self) -> aiohttp.ClientSession:
        if self._parent is not None:
            return self._parent._pool()
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._max_connections,
                    # Below the API server's own idle limit, so that it is never the one to hang up first.
                    keepalive_timeout=60,
                    socket_factory=open_socket,
                ),
                headers={"Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                # Big watch events arrive in many reads; a larger buffer halves their number.
                read_bufsize=2**18,
            )
        return self._session


def _selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    params: dict[str, str] = {}
    if label_selector:
        params["labelSelector"] = label_selector
    if field_selector:
        params["fieldSelector"] = field_selector
    return params


def _retry_wait_s(exc: ApiError, attempt: int, repeatable: bool) -> float | None:
    """Seconds until a failed request may run again; None when the caller has to decide."""
    if isinstance(exc, UnauthorizedError):
        return 0.0 if attempt == 0 else None
    if exc.retry_after_s is not None and exc.status in (429, 503):
        # Jittered, so that all that were refused together do not come back together.
        wait_s = exc.retry_after_s * random.uniform(1.0, 1.3)
        return wait_s if wait_s <= MAX_RETRY_WAIT_S else None
    if repeatable and isinstance(exc, ServerUnavailableError) and exc.status != 504:
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


def _no_answer(verb: str, path: str, exc: Exception) -> ServerUnavailableError:
    what = "timed out" if isinstance(exc, TimeoutError) else f"failed: {exc or type(exc).__name__}"
    return ServerUnavailableError(0, type(exc).__name__, f"{verb} {path} {what}")


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
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
