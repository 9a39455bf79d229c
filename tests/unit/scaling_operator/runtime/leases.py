"""One Lease, and clients of it whose requests can be disturbed each by itself.

Requests take time on both ways, by the event loop's clock; none of it is real where that clock is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal

from scaling_operator.runtime.client import ApiClient
from scaling_operator.runtime.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    ServerUnavailableError,
)
from scaling_operator.runtime.objects import Object

# A request that hangs is not acted on; one that is muted is acted on and never answered; "answer lost" breaks the
# connection of one request that was acted on.
Fault = Literal["hang", "mute", "fail", "answer lost"]

LATENCY_S = 0.02
NAME = "operator"


class Leases:
    """Holds at most one Lease; `faults[client]` decides how that client is treated."""

    def __init__(self) -> None:
        self.lease: Object | None = None
        self.faults: dict[str, Fault] = {}
        # When who changed the lease.
        self.writes: list[tuple[float, str]] = []
        self._version = 100

    def client(self, name: str) -> ApiClient:
        """A client for which faults go by `name`."""
        return _LeaseClient(self, name)

    @property
    def holder(self) -> str | None:
        """Who stands in the lease; None if there is none."""
        return None if self.lease is None else self.lease["spec"]["holderIdentity"]

    def overwrite(self, **spec: Any) -> None:
        """Change the lease behind everybody's back, creating it if need be."""
        lease = self.lease or {"metadata": {"name": NAME}, "spec": {}}
        self.store({**lease, "spec": {**lease["spec"], **spec}})

    def store(self, body: Object) -> None:
        self._version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self._version)}}


class _LeaseClient(ApiClient):
    def __init__(self, leases: Leases, name: str) -> None:
        self._leases = leases
        self._name = name

    async def get(self, path: str, *, metadata_only: bool = False) -> Object:
        await self._travel()
        return await self._answer()

    async def create(
        self, path: str, body: Object, *, params: Mapping[str, str] | None = None, metadata_only: bool = False
    ) -> Object:
        await self._travel()
        if self._leases.lease is not None:
            raise AlreadyExistsError(409, "AlreadyExists", NAME)
        self._accept(body)
        return await self._answer()

    async def replace(
        self, path: str, body: Object, *, params: Mapping[str, str] | None = None, metadata_only: bool = False
    ) -> Object:
        await self._travel()
        current = self._found()
        if body["metadata"]["resourceVersion"] != current["metadata"]["resourceVersion"]:
            raise ConflictError(409, "Conflict", NAME)
        self._accept(body)
        return await self._answer()

    def _accept(self, body: Object) -> None:
        self._leases.store(deepcopy(body))
        self._leases.writes.append((asyncio.get_running_loop().time(), self._name))
        if self._leases.faults.get(self._name) == "answer lost":
            del self._leases.faults[self._name]
            raise ServerUnavailableError(0, "Disconnected", "the connection broke")

    def _found(self) -> Object:
        if self._leases.lease is None:
            raise NotFoundError(404, "NotFound", NAME)
        return self._leases.lease

    async def _travel(self) -> None:
        await asyncio.sleep(LATENCY_S)
        match self._leases.faults.get(self._name):
            case "hang":
                await _for_ever()
            case "fail":
                raise ServerUnavailableError(500, "InternalError", "in trouble")

    async def _answer(self) -> Object:
        """The lease as it is when the server answers, on its way to the client."""
        lease = deepcopy(self._found())
        if self._leases.faults.get(self._name) == "mute":
            await _for_ever()
        await asyncio.sleep(LATENCY_S)
        return lease


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()
