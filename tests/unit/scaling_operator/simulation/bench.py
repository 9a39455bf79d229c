"""An executor by itself, on the simulated server."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

from scaling_api import names
from scaling_api.names import WorkerSlot
from scaling_operator.decide.types import Action, CreateWorkers, EnsureAttempt
from scaling_operator.executor import Executor
from scaling_operator.mirrors import Mirrors
from scaling_operator.ownership import Target
from scaling_operator.runtime.objects import Key
from scaling_operator.runtime.store import Store
from scaling_operator.runtime.tracker import WriteTracker
from scaling_operator.settings import Settings
from tests.unit.scaling_operator.builders import job
from tests.unit.scaling_operator.runtime.virtual_time import run_in_virtual_time

from .kubelet import Kubelet
from .operator import Faults, SimulatedClient
from .server import Server, copied

KEY = Key("team", "mnist")
EVERYTHING = EnsureAttempt(1, head=True, service=True, policy=True)


def workers(count: int) -> CreateWorkers:
    """The first workers of attempt 1."""
    return CreateWorkers(1, tuple((WorkerSlot("cpu", index), 0) for index in range(count)))


class Bench:
    """An executor, the server that it talks to, and the job that it works for."""

    def __init__(self) -> None:
        rng = random.Random(1)
        self.server = Server()
        self.faults = Faults()
        self.kubelet = Kubelet(self.server, rng, work_s=60.0)
        self.client = SimulatedClient(self.server, self.kubelet, self.faults, rng)
        self.tracker: WriteTracker[Key] = WriteTracker()
        self.mirrors = Mirrors(Store("jobs"), Store("pods"), Store("services"), Store("policies"), ())
        manifest = self.server.create("scalingjobs", {"metadata": {"name": KEY.name, "namespace": KEY.namespace}})
        uid = manifest["metadata"]["uid"]
        spec = job({"cluster": {"workers": [{"name": "cpu", "max": 300}]}}, uid=uid)
        self.target = Target(KEY, manifest, spec)
        self.executor = self.fresh()

    def fresh(self) -> Executor:
        """The executor of a process that has just started."""
        return Executor(self.client, self.mirrors, self.tracker, Settings(), ca_bundle=lambda: "CA")

    def look(self) -> None:
        """Bring the caches up to date."""
        mirrors = self.mirrors
        for plural, store in (
            ("pods", mirrors.pods),
            ("services", mirrors.services),
            ("networkpolicies", mirrors.network_policies),
        ):
            ours = [obj for obj in self.server.all(plural) if names.LABEL_JOB in (obj["metadata"].get("labels") or {})]
            store.replace([copied(obj) for obj in ours], self.server.version)

    async def run(self, *actions: Action) -> bool:
        """Carry out `actions`; whether all was done."""
        return all([await self.executor.run(self.target, action) for action in actions])

    def names(self, plural: str) -> list[str]:
        """Names of what exists."""
        return sorted(obj["metadata"]["name"] for obj in self.server.all(plural))

    def requests(self, verb: str) -> list[str]:
        """What was asked for, in order."""
        return [plural for done, plural in self.client.requests if done == verb]


def on_bench(test: Callable[[Bench], Awaitable[Any]]) -> None:
    """Run `test` in virtual time."""

    async def main() -> None:
        await test(Bench())

    run_in_virtual_time(main())
