"""Carrying out decisions against a simulated server."""

from __future__ import annotations

import asyncio
import json
import random
from base64 import b64decode
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from scaling_api import names
from scaling_api.names import WorkerSlot
from scaling_operator.decide.types import (
    Action,
    CreateWorkers,
    DeleteAttempt,
    DeleteJob,
    DeletePods,
    EnsureAttempt,
)
from scaling_operator.executor import (
    MAX_CREATES,
    MAX_DELETES,
    AttemptGoneError,
    Executor,
    NameTakenError,
    RefusedError,
    Target,
)
from scaling_operator.mirrors import Mirrors
from scaling_operator.runtime.objects import Key, Object
from scaling_operator.runtime.store import Store
from scaling_operator.runtime.tracker import WriteTracker
from scaling_operator.settings import Settings

from .builders import job
from .runtime.virtual_time import run_in_virtual_time
from .simulation.kubelet import Kubelet
from .simulation.operator import Faults, SimulatedClient
from .simulation.server import Server

KEY = Key("team", "mnist")
EVERYTHING = EnsureAttempt(1, head=True, service=True, policy=True)


def _workers(count: int) -> CreateWorkers:
    return CreateWorkers(1, tuple((WorkerSlot("cpu", index), 0) for index in range(count)))


class Bench:
    """An executor, the server that it talks to, and the job that it works for."""

    def __init__(self) -> None:
        rng = random.Random(1)
        self.server = Server()
        self.faults = Faults()
        self.client = SimulatedClient(self.server, Kubelet(self.server, rng, work_s=60.0), self.faults, rng)
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

    async def run(self, *actions: Action) -> bool:
        """Carry out `actions`; whether all was done."""
        return all([await self.executor.run(self.target, action) for action in actions])

    def names(self, plural: str) -> list[str]:
        """Names of what exists."""
        return sorted(obj["metadata"]["name"] for obj in self.server.all(plural))

    def requests(self, verb: str) -> list[str]:
        """What was asked for, in order."""
        return [plural for done, plural in self.client.requests if done == verb]


def _on_bench(test: Callable[[Bench], Awaitable[Any]]) -> None:
    async def main() -> None:
        await test(Bench())

    run_in_virtual_time(main())


def test_the_order_of_creation_tells_what_exists() -> None:
    async def test(bench: Bench) -> None:
        assert await bench.run(EVERYTHING, _workers(2))
        assert bench.requests("create") == [
            "networkpolicies",
            "serviceaccounts",
            "secrets",
            "pods",
            "services",
            "pods",
            "pods",
        ]
        assert bench.names("pods") == ["mnist-1-cpu-0-0", "mnist-1-cpu-1-0", "mnist-1-head"]

    _on_bench(test)


def test_the_key_waits_for_its_own_writes() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        assert not bench.tracker.caught_up(KEY)
        for store in (bench.mirrors.pods, bench.mirrors.services, bench.mirrors.network_policies):
            store.advance(bench.server.version)
        assert bench.tracker.caught_up(KEY)

    _on_bench(test)


def test_doing_it_twice_is_doing_it_once() -> None:
    async def test(bench: Bench) -> None:
        for executor in (bench.executor, bench.fresh()):
            bench.executor = executor
            assert await bench.run(EVERYTHING, _workers(2))
        assert len(bench.names("pods")) == 3

    _on_bench(test)


def test_an_attempt_that_was_begun_keeps_its_token_and_templates() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EnsureAttempt(1, head=True, service=False, policy=True))
        [secret] = bench.server.all("secrets")
        bench.executor = bench.fresh()
        await bench.run(EVERYTHING, _workers(1))
        assert list(bench.server.all("secrets")) == [secret]
        stored = json.loads(b64decode(secret["data"]["templates.json"]))["workers"]["cpu"]
        worker = bench.server.get("pods", Key("team", "mnist-1-cpu-0-0"))
        assert worker["spec"] == stored["spec"]
        assert ("get", "secrets") in bench.client.requests

    _on_bench(test)


def test_a_head_comes_from_the_secret_that_there_is_although_the_spec_was_edited_since() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        [secret] = bench.server.all("secrets")
        bench.server.remove("pods", Key("team", "mnist-1-head"))  # as if the operator had ended before it made one
        edited = job({"cluster": {"image": "later"}}, uid=bench.target.manifest["metadata"]["uid"])
        bench.target = replace(bench.target, job=edited)
        bench.executor = bench.fresh()
        await bench.run(EVERYTHING)
        head = bench.server.get("pods", Key("team", "mnist-1-head"))
        stored = json.loads(b64decode(secret["data"]["templates.json"]))["head"]
        assert head["spec"]["containers"] == stored["spec"]["containers"]

    _on_bench(test)


@pytest.mark.parametrize("plural", ["networkpolicies", "secrets", "pods", "services"])
def test_an_earlier_jobs_object_has_to_go_first(plural: str) -> None:
    async def test(bench: Bench) -> None:
        name = "mnist-1-head" if plural == "pods" else "mnist-1"
        owners = [{"uid": "an-earlier-one", "controller": True, "kind": "ScalingJob"}]
        old: Object = {"metadata": {"name": name, "namespace": "team", "ownerReferences": owners}, "spec": {}}
        bench.server.create(plural, old)
        with pytest.raises(NameTakenError, match=f"{name} exists and is not this job's"):
            await bench.run(EVERYTHING)
        bench.server.remove(plural, Key("team", name))
        assert await bench.run(EVERYTHING)
        assert "mnist-1" in bench.names("services")

    _on_bench(test)


def test_what_is_refused_is_refused_once() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        bench.faults.pods_refused = True
        with pytest.raises(RefusedError, match="Pod mnist-1-cpu-0-0 is refused: exceeded quota"):
            await bench.run(_workers(100))
        bench.faults.pods_refused = False
        assert bench.names("pods") == ["mnist-1-head"]
        await bench.run(_workers(3))

    _on_bench(test)


def test_after_a_refusal_of_the_head_it_is_all_that_is_asked_for() -> None:
    async def test(bench: Bench) -> None:
        bench.faults.pods_refused = True
        with pytest.raises(RefusedError):
            await bench.run(EVERYTHING)
        bench.client.requests.clear()
        again = EnsureAttempt(1, head=True, service=True, policy=False)
        with pytest.raises(RefusedError):
            await bench.run(again)
        assert bench.client.requests == [("create", "pods")]
        bench.faults.pods_refused = False
        await bench.run(again)
        [secret] = bench.server.all("secrets")
        head = bench.server.get("pods", Key("team", "mnist-1-head"))
        assert head["spec"] == json.loads(b64decode(secret["data"]["templates.json"]))["head"]["spec"]

    _on_bench(test)


def test_a_service_account_that_was_deleted_is_made_anew() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        [account] = bench.server.all("serviceaccounts")
        name = account["metadata"]["name"]
        bench.server.remove("serviceaccounts", Key("team", name))
        bench.faults.pods_refused = True
        bench.faults.refusal = f'error looking up service account team/{name}: serviceaccount "{name}" not found'
        with pytest.raises(RefusedError, match="error looking up service account"):
            await bench.run(_workers(1))
        bench.faults.pods_refused = False
        await bench.run(_workers(1))
        assert bench.names("serviceaccounts") == [name]

    _on_bench(test)


def test_workers_come_in_batches_that_double_and_a_failure_stops_them() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        blocked = {"metadata": {"name": "mnist-1-cpu-9-0", "namespace": "team", "ownerReferences": []}, "spec": {}}
        bench.server.create("pods", blocked)
        with pytest.raises(NameTakenError):
            await bench.run(_workers(100))
        # 1 + 2 + 4 + 8, the tenth of which failed; with it the head.
        assert len(bench.names("pods")) == 15 + 1

    _on_bench(test)


def test_one_call_creates_so_many_and_no_more() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        assert not await bench.run(_workers(MAX_CREATES + 1))
        assert len(bench.names("pods")) == MAX_CREATES + 1
        assert await bench.run(_workers(MAX_CREATES))

    _on_bench(test)


def test_one_call_deletes_so_many_and_no_more() -> None:
    async def test(bench: Bench) -> None:
        pods = tuple((f"pod-{index}", "uid") for index in range(MAX_DELETES + 1))
        assert not await bench.run(DeletePods(pods))
        assert bench.requests("delete") == ["pods"] * MAX_DELETES
        assert await bench.run(DeletePods(pods[MAX_DELETES:]))

    _on_bench(test)


def test_without_its_secret_an_attempt_is_lost() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        bench.server.remove("secrets", Key("team", "mnist-1"))
        bench.executor = bench.fresh()
        with pytest.raises(AttemptGoneError, match="Secret mnist-1") as caught:
            await bench.run(_workers(1))
        assert caught.value.attempt == 1

    _on_bench(test)


def test_the_secret_goes_before_what_shows_that_it_exists() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        await bench.run(DeleteAttempt(1))
        assert bench.requests("delete")[0] == "secrets"
        assert [bench.names(plural) for plural in ("secrets", "services", "networkpolicies")] == [[], [], []]
        await bench.run(DeleteAttempt(1), DeletePods((("gone", "uid"),)))  # nothing there: nothing to do

    _on_bench(test)


def test_pods_and_the_job_are_deleted() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        head = bench.server.get("pods", Key("team", names.head_pod("mnist", 1)))
        await asyncio.sleep(5.0)  # it has a node now
        await bench.run(DeletePods(((head["metadata"]["name"], head["metadata"]["uid"]),)), DeleteJob())
        assert list(bench.server.all("scalingjobs")) == []
        [pod] = bench.server.all("pods")
        assert pod["metadata"]["deletionTimestamp"] == bench.server.time_in(
            head["spec"]["terminationGracePeriodSeconds"]
        )

    _on_bench(test)
