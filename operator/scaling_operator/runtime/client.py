"""A small Kubernetes API client: JSON dicts in and out, a method per verb, errors sorted by reaction.

It adds to `transport` what Kubernetes means by its verbs: pages, selectors, preconditions, watch events.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import orjson

from .connection import Connection, find_connection
from .errors import ServerUnavailableError, from_status
from .objects import Object, resource_path
from .transport import JSON, Request, Transport

__all__ = ["APPLY_PATCH", "JSON_PATCH", "MERGE_PATCH", "ApiClient", "ListPage", "ListResult", "resource_path"]

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

REQUEST_TIMEOUT_S = 30.0
# Bookmarks come every minute: after two and a half without one, nobody is there.
WATCH_SILENCE_S = 150.0
PAGE_SIZE = 500
DEFAULT_QPS = 500.0
# Enough to keep an API server busy; each one costs a TLS handshake and, at worst, 256 KiB of buffer.
MAX_CONNECTIONS = 24

_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_ONLY_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_REPEATABLE_PATCHES = frozenset({MERGE_PATCH, APPLY_PATCH})

EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
Propagation = Literal["Background", "Foreground", "Orphan"]


class ListResult(NamedTuple):
    """A complete, consistent list: every item as of `resource_version`."""

    items: list[Object]
    resource_version: str


class ListPage(NamedTuple):
    """A part of a list; `api_version` and `kind` are those of the items, which do not carry them."""

    items: list[Object]
    resource_version: str
    api_version: str
    kind: str


class ApiClient:
    """Talks to one API server; use as an async context manager or call `close`.

    All methods raise subclasses of ApiError. `qps` bounds the requests per second from this side (None: no
    bound; the server has its own flow control), `max_connections` the requests under way at once, watches not
    counted.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        qps: float | None = DEFAULT_QPS,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        max_connections: int = MAX_CONNECTIONS,
        user_agent: str = "scaling-operator",
    ) -> None:
        self._transport = Transport(
            connection,
            qps=qps,
            request_timeout_s=request_timeout_s,
            max_connections=max_connections,
            user_agent=user_agent,
        )
        self._write_guard: Callable[[], None] | None = None
        self._separate: list[ApiClient] = []

    @classmethod
    async def load(cls, kubeconfig: str | None = None, **options: Any) -> ApiClient:
        """A client for `kubeconfig`, $KUBECONFIG, the pod's service account or ~/.kube/config, in this order.

        `options` go to the constructor. Raises ConfigurationError when there is no usable configuration.
        """
        return cls(await find_connection(kubeconfig), **options)

    def separate(self, *, request_timeout_s: float) -> ApiClient:
        """A client of the same server with its own few connections and no rate limit, closed with this one.

        For requests that must never queue behind others, such as renewals of a lease.
        """
        client = ApiClient(
            self._transport.connection,
            qps=None,
            request_timeout_s=request_timeout_s,
            max_connections=4,
            user_agent=self._transport.user_agent,
        )
        self._separate.append(client)
        return client

    def guarded(self, write_guard: Callable[[], None]) -> ApiClient:
        """The same client, but `write_guard` is called before each request that changes something.

        What it raises passes through, and nothing is sent: so a process that lost its lease while it was
        frozen cannot write once more. Connections and rate limit are shared; close only the original.
        """
        client = ApiClient.__new__(ApiClient)
        client._transport = self._transport
        client._write_guard = write_guard
        client._separate = []
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; the client may be used again afterwards and then opens new ones."""
        for client in self._separate:
            await client.close()
        await self._transport.close()

    async def get(self, path: str, *, metadata_only: bool = False) -> Object:
        """Read one object (or any JSON document) at `path`."""
        return await self._transport.request(_read(path, "get", {}, metadata_only))

    async def probe(self, path: str) -> None:
        """Raise what a list of the collection `path` would raise (NotFoundError, ForbiddenError), reading little."""
        await self._transport.request(_read(path, "list", {"limit": "1"}, metadata_only=True))

    async def list(
        self,
        path: str,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int = PAGE_SIZE,
        metadata_only: bool = False,
    ) -> ListResult:
        """Read a whole collection, consistently, in pages of `limit` (which bounds a page, not the whole).

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
    ) -> AsyncGenerator[ListPage]:
        """The pages of a consistent list, decoded one at a time."""
        params = _selectors(label_selector, field_selector)
        params["limit"] = str(limit)
        while True:
            body = await self._transport.request(_read(path, "list", params, metadata_only))
            metadata = body.get("metadata") or {}
            yield ListPage(
                body.get("items") or [],
                metadata.get("resourceVersion", ""),
                body.get("apiVersion", ""),
                body.get("kind", "").removesuffix("List"),
            )
            token = metadata.get("continue")
            if not token:
                return
            params = {**params, "continue": token}

    async def watch(
        self,
        path: str,
        *,
        resource_version: str,
        timeout_s: float,
        silence_s: float = WATCH_SILENCE_S,
        label_selector: str | None = None,
        field_selector: str | None = None,
        metadata_only: bool = False,
    ) -> AsyncGenerator[tuple[EventType, Object]]:
        """Events after `resource_version`, bookmarks included, until the server ends the watch.

        `timeout_s` asks the server to end it; `silence_s` without a byte raises ServerUnavailableError, as
        does a broken connection. ExpiredError means that the version is too old: list again.
        """
        params = _selectors(label_selector, field_selector) | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, round(timeout_s))),
        }
        request = _read(path, "watch", params, metadata_only)
        async with contextlib.aclosing(self._transport.stream(request, silence_s=silence_s)) as lines:
            async for line in lines:
                try:
                    event = orjson.loads(line)
                except orjson.JSONDecodeError as exc:
                    raise ServerUnavailableError(0, "BrokenEvent", f"watch {path}: broken line") from exc
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise from_status(int(status.get("code") or 500), status)
                yield event["type"], event["object"]

    async def create(
        self,
        path: str,
        body: Object,
        *,
        params: Mapping[str, str] | None = None,
        metadata_only: bool = False,
    ) -> Object:
        """Create `body` in the collection `path` (or post it to a subresource) and return what was stored.

        `metadata_only` has the answer (here and below) without spec and status: less work for both ends, and
        enough for a WriteTracker. Raises AlreadyExistsError. After ServerUnavailableError the object may or
        may not exist.
        """
        return await self._write("POST", path, "create", body, params=params, metadata_only=metadata_only)

    async def replace(self, path: str, body: Object) -> Object:
        """Store `body` in place of the object; its resourceVersion, if any, must still be current.

        Raises ConflictError when it is not.
        """
        return await self._write("PUT", path, "update", body)

    async def patch(
        self,
        path: str,
        body: Any,
        *,
        content_type: str = MERGE_PATCH,
        params: Mapping[str, str] | None = None,
        metadata_only: bool = False,
    ) -> Object:
        """Patch the object; server-side apply takes APPLY_PATCH and `params` with fieldManager (and force)."""
        return await self._write(
            "PATCH",
            path,
            "patch",
            body,
            params=params,
            content_type=content_type,
            repeatable=content_type in _REPEATABLE_PATCHES,
            metadata_only=metadata_only,
        )

    async def delete(
        self,
        path: str,
        *,
        grace_period_s: int | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: Propagation | None = None,
    ) -> Object:
        """Delete the object and return the server's answer (the object while it terminates, or a Status).

        With `uid` a successor of the same name is left alone, with `resource_version` an object that has changed
        (ConflictError). Raises NotFoundError.
        """
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        if given := {name: value for name, value in preconditions.items() if value is not None}:
            options["preconditions"] = given
        if propagation is not None:
            options["propagationPolicy"] = propagation
        return await self._write("DELETE", path, "delete", options, repeatable=True)

    async def _write(
        self,
        method: str,
        path: str,
        verb: str,
        body: Any,
        *,
        params: Mapping[str, str] | None = None,
        content_type: str = JSON,
        repeatable: bool = False,
        metadata_only: bool = False,
    ) -> Object:
        return await self._transport.request(
            Request(
                method=method,
                path=path,
                verb=verb,
                params=params,
                body=orjson.dumps(body),
                content_type=content_type,
                accept=_METADATA_ONLY if metadata_only else JSON,
                repeatable=repeatable,
                guard=self._write_guard,
            )
        )


def _read(path: str, verb: str, params: Mapping[str, str], metadata_only: bool) -> Request:
    metadata = _METADATA_ONLY_LIST if verb == "list" else _METADATA_ONLY
    accept = metadata if metadata_only else JSON
    return Request(method="GET", path=path, verb=verb, params=params, accept=accept, repeatable=True)


def _selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    params: dict[str, str] = {}
    if label_selector:
        params["labelSelector"] = label_selector
    if field_selector:
        params["fieldSelector"] = field_selector
    return params
