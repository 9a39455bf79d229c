"""Carrying out decisions against a simulated server."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from dataclasses import replace

import pytest

from scaling_api import names
from scaling_operator.decide.types import (
    DeleteAttempt,
    DeleteJob,
    DeletePods,
    EnsureAttempt,
)
from scaling_operator.deletion import MAX_DELETES
from scaling_operator.executor import (
    MAX_CREATES,
    RefusedError,
)
from scaling_operator.runtime.objects import Key
from scaling_operator.templates import AttemptGoneError

from .builders import job
from .simulation.bench import EVERYTHING, KEY, Bench, on_bench, workers


def test_the_order_of_creation_tells_what_exists() -> None:
    async def test(bench: Bench) -> None:
        assert await bench.run(EVERYTHING, workers(2))
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

    on_bench(test)


def test_the_key_waits_for_its_own_writes() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        assert not bench.tracker.caught_up(KEY)
        for store in (bench.mirrors.pods, bench.mirrors.services, bench.mirrors.network_policies):
            store.advance(bench.server.version)
        assert bench.tracker.caught_up(KEY)

    on_bench(test)


def test_doing_it_twice_is_doing_it_once() -> None:
    async def test(bench: Bench) -> None:
        for executor in (bench.executor, bench.fresh()):
            bench.executor = executor
            assert await bench.run(EVERYTHING, workers(2))
        assert len(bench.names("pods")) == 3

    on_bench(test)


def test_an_attempt_that_was_begun_keeps_its_token_and_templates() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EnsureAttempt(1, head=True, service=False, policy=True))
        [secret] = bench.server.all("secrets")
        bench.executor = bench.fresh()
        await bench.run(EVERYTHING, workers(1))
        assert list(bench.server.all("secrets")) == [secret]
        stored = json.loads(b64decode(secret["data"]["templates.json"]))["workers"]["cpu"]
        worker = bench.server.get("pods", Key("team", "mnist-1-cpu-0-0"))
        assert worker["spec"] == stored["spec"]
        assert ("get", "secrets") in bench.client.requests

    on_bench(test)


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

    on_bench(test)


def test_what_is_refused_is_refused_once() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        bench.faults.pods_refused = True
        with pytest.raises(RefusedError, match="Pod mnist-1-cpu-0-0 is refused: exceeded quota"):
            await bench.run(workers(100))
        bench.faults.pods_refused = False
        assert bench.names("pods") == ["mnist-1-head"]
        await bench.run(workers(3))

    on_bench(test)


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

    on_bench(test)


def test_a_service_account_that_was_deleted_is_made_anew() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        [account] = bench.server.all("serviceaccounts")
        name = account["metadata"]["name"]
        bench.server.remove("serviceaccounts", Key("team", name))
        bench.faults.pods_refused = True
        bench.faults.refusal = f'error looking up service account team/{name}: serviceaccount "{name}" not found'
        with pytest.raises(RefusedError, match="error looking up service account"):
            await bench.run(workers(1))
        bench.faults.pods_refused = False
        await bench.run(workers(1))
        assert bench.names("serviceaccounts") == [name]

    on_bench(test)


def test_workers_come_in_batches_that_double_and_a_failure_stops_them() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        bench.faults.pods_at_most = 10
        with pytest.raises(RefusedError):
            await bench.run(workers(100))
        # 1 + 2 + 4 + 8, the last six of which were refused; with them the head.
        assert len(bench.names("pods")) == 9 + 1
        assert bench.requests("create").count("pods") == 15 + 1

    on_bench(test)


def test_one_call_creates_so_many_and_no_more() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        assert not await bench.run(workers(MAX_CREATES + 1))
        assert len(bench.names("pods")) == MAX_CREATES + 1
        assert await bench.run(workers(MAX_CREATES))

    on_bench(test)


def test_one_call_deletes_so_many_and_no_more() -> None:
    async def test(bench: Bench) -> None:
        pods = tuple((f"pod-{index}", "uid") for index in range(MAX_DELETES + 1))
        assert not await bench.run(DeletePods(pods))
        assert bench.requests("delete") == ["pods"] * MAX_DELETES
        assert await bench.run(DeletePods(pods[MAX_DELETES:]))

    on_bench(test)


def test_without_its_secret_an_attempt_is_lost() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        bench.server.remove("secrets", Key("team", "mnist-1"))
        bench.executor = bench.fresh()
        with pytest.raises(AttemptGoneError, match="Secret mnist-1") as caught:
            await bench.run(workers(1))
        assert caught.value.attempt == 1

    on_bench(test)


def test_the_secret_goes_before_what_shows_that_it_exists() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        bench.look()
        await bench.run(DeleteAttempt(1))
        assert bench.requests("delete")[0] == "secrets"
        assert [bench.names(plural) for plural in ("secrets", "services", "networkpolicies")] == [[], [], []]
        await bench.run(DeleteAttempt(1), DeletePods((("gone", "uid"),)))  # nothing there: nothing to do

    on_bench(test)


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

    on_bench(test)
