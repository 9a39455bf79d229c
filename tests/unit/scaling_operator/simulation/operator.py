"""The operator in the simulation: everything real but transport and clock, killed and started at will."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

from scaling_operator.events import EventRecorder
from scaling_operator.job_controller import JobController
from scaling_operator.mirrors import Mirrors, trim_pod
from scaling_operator.runtime.client import PAGE_SIZE, ApiClient, ListResult, Propagation
from scaling_operator.runtime.errors import ApiError, ForbiddenError, InvalidError, ServerUnavailableError
from scaling_operator.runtime.objects import Key, Object
from scaling_operator.runtime.store import Store
from scaling_operator.settings import Settings

from .kubelet import Kubelet
from .server import EPOCH_S, Feed, Server, copied


class Faults:
    """What goes wrong on the way: `failing` is a probability, half of it after the server has acted."""

    def __init__(self) -> None:
        self.failing = 0.0
        self.pods_refused = False
        # Nothing can be created any more.
        self.namespace_goes = False
        # A quota.
        self.pods_at_most = 10_000
        # Of pauses, in 0 to 1; 0.5 leaves them as they are.
        self.jitter = 0.5
        self.refusal = "exceeded quota: compute"
        # Creations of pods get no answer.
        self.pods_hang = False
        # What every creation of a pod fails with.
        self.pods_fail: ApiError | None = None
        # What every deletion of a pod fails with.
        self.deletions_fail: ApiError | None = None
        # A field that no status may have.
        self.field_refused = ""


class SimulatedClient(ApiClient):
    """Talks to the simulated server, with latency and faults."""

    def __init__(self, server: Server, kubelet: Kubelet, faults: Faults, rng: random.Random) -> None:
        self._server = server
        self._kubelet = kubelet
        self._faults = faults
        self._rng = rng
        self.requests: list[tuple[str, str]] = []

    async def create(
        self, path: str, body: Object, *, params: Mapping[str, str] | None = None, metadata_only: bool = False
    ) -> Object:
        plural = path.rpartition("/")[2]
        lose_answer = await self._travel("create", plural)
        if self._faults.namespace_goes:
            sentence = "unable to create new content in namespace team because it is being terminated"
            causes = [{"reason": "NamespaceTerminating", "message": "namespace team is being terminated"}]
            raise ForbiddenError(403, "Forbidden", sentence, details={"causes": causes})
        full = len(list(self._server.all("pods"))) >= self._faults.pods_at_most
        if plural == "pods" and (self._faults.pods_refused or full):
            raise ForbiddenError(403, "Forbidden", self._faults.refusal)
        if plural == "pods" and self._faults.pods_fail is not None:
            raise self._faults.pods_fail
        if plural == "pods" and self._faults.pods_hang:
            await asyncio.Event().wait()
        created = self._server.create(plural, body)
        await self._return(lose_answer)
        answer: Object = copied(created)
        return answer

    async def patch(
        self,
        path: str,
        body: Any,
        *,
        content_type: str = "",
        params: Mapping[str, str] | None = None,
        metadata_only: bool = False,
    ) -> Object:
        *_, namespace, plural, name, part = path.split("/")
        lose_answer = await self._travel("patch", plural)
        if part == "status" and self._faults.field_refused in body["status"]:
            raise InvalidError(422, "Invalid", f"status.{self._faults.field_refused}: Invalid value")
        patched = self._server.patch(plural, Key(namespace, name), body, part=part)
        await self._return(lose_answer)
        answer: Object = copied(patched)
        return answer

    async def delete(
        self,
        path: str,
        *,
        grace_period_s: int | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: Propagation | None = None,
    ) -> Object:
        *_, namespace, plural, name = path.split("/")
        key = Key(namespace, name)
        lose_answer = await self._travel("delete", plural)
        if plural == "pods" and self._faults.deletions_fail is not None:
            raise self._faults.deletions_fail
        obj = self._server.check(plural, key, uid=uid, resource_version=resource_version)
        if plural == "pods":
            own_s = obj["spec"]["terminationGracePeriodSeconds"]
            obj = self._kubelet.delete(key, own_s if grace_period_s is None else grace_period_s)
        else:
            self._server.remove(plural, key)
        await self._return(lose_answer)
        return copied(obj) if plural == "pods" else {"kind": "Status"}

    async def get(self, path: str, *, metadata_only: bool = False) -> Object:
        *_, namespace, plural, name = path.split("/")
        await self._travel("get", plural)
        answer: Object = copied(self._server.get(plural, Key(namespace, name)))
        return answer

    async def list(
        self,
        path: str,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int = PAGE_SIZE,
        metadata_only: bool = False,
    ) -> ListResult:
        *_, namespace, plural = path.split("/")
        await self._travel("list", plural)
        found = [obj for obj in self._server.all(plural) if obj["metadata"].get("namespace") == namespace]
        if label_selector is not None:
            label, _, value = label_selector.partition("!=")
            found = [obj for obj in found if (obj["metadata"].get("labels") or {}).get(label) != value]
        if field_selector is not None:
            name = field_selector.removeprefix("metadata.name=")
            found = [obj for obj in found if obj["metadata"]["name"] == name]
        return ListResult([copied(obj) for obj in found], str(self._server.version))

    async def _travel(self, verb: str, plural: str) -> bool:
        """The way there; True if the answer will be lost."""
        self.requests.append((verb, plural))
        await asyncio.sleep(self._rng.random() * 0.02)
        if self._rng.random() >= self._faults.failing:
            return False
        if self._rng.random() < 0.5:
            raise ServerUnavailableError(503, "ServiceUnavailable", "try again")
        return True

    async def _return(self, lose_answer: bool) -> None:
        await asyncio.sleep(self._rng.random() * 0.02)
        if lose_answer:
            raise ServerUnavailableError(0, "Disconnected", "the connection broke")


class SimulatedOperator:
    """One process: fresh caches, fresh memory."""

    def __init__(
        self, server: Server, kubelet: Kubelet, faults: Faults, rng: random.Random, *, leads: bool = True
    ) -> None:
        loop = asyncio.get_running_loop()
        stores = {plural: Store(plural) for plural in ("scalingjobs", "pods", "services", "networkpolicies")}
        self.client = SimulatedClient(server, kubelet, faults, rng)
        mirrors = Mirrors(
            jobs=stores["scalingjobs"],
            pods=stores["pods"],
            services=stores["services"],
            network_policies=stores["networkpolicies"],
            reflectors=(),
        )
        self.feeds = [
            Feed(server, name, store, rng, transform=trim_pod if name == "pods" else _unchanged)
            for name, store in stores.items()
        ]
        self.controller = JobController(
            self.client,
            mirrors,
            EventRecorder(self.client, clock=loop.time),
            Settings(workers=2),
            ca_bundle=lambda: "CA",
            clock=lambda: EPOCH_S + loop.time(),
            random_unit=lambda: faults.jitter,
        )
        controller = self.controller.build()
        self._task = asyncio.create_task(controller.run()) if leads else None

    async def kill(self) -> None:
        """End at once, whatever it is doing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        for feed in self.feeds:
            feed.close()


def _unchanged(obj: Object) -> Object:
    return obj
