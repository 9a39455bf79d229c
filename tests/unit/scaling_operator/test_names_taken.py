"""Other people's objects: never touched, said before anything is made; what an earlier job left over gives way."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from scaling_operator.decide.types import DeleteAttempt, DeleteJob, EnsureAttempt
from scaling_operator.names_taken import NameTakenError
from scaling_operator.runtime.errors import NotFoundError
from scaling_operator.runtime.objects import Key, Object
from scaling_operator.templates import AttemptGoneError

from .simulation.bench import EVERYTHING, KEY, Bench, on_bench, workers

NAMES = {
    "networkpolicies": "mnist-1",
    "secrets": "mnist-1",
    "services": "mnist-1",
    "pods": "mnist-1-head",
    # Not under the first name that comes.
    "workers": "mnist-1-cpu-9-0",
}


def _put(bench: Bench, plural: str, name: str, *owners: Object, **metadata: object) -> Object:
    spec = {"terminationGracePeriodSeconds": 30} if plural == "pods" else {}
    meta = {"name": name, "namespace": KEY.namespace, "ownerReferences": list(owners)} | metadata
    return bench.server.create(plural, {"metadata": meta, "spec": spec})


def _job(uid: str, name: str = KEY.name) -> Object:
    return {"apiVersion": "scaling.dev/v1alpha1", "kind": "ScalingJob", "name": name, "uid": uid, "controller": True}


def _everything(bench: Bench) -> dict[str, list[Object]]:
    return {plural: list(bench.server.all(plural)) for plural in ("networkpolicies", "secrets", "services", "pods")}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize(
    "owners",
    [
        pytest.param([], id="nobody's"),
        pytest.param([_job("another") | {"kind": "Deployment"}], id="another kind's"),
        pytest.param([_job("another", "other")], id="another job's"),
        pytest.param([_job("earlier") | {"apiVersion": "example.com/v1"}], id="another group's"),
        pytest.param([_job("earlier"), _job("another") | {"controller": False}], id="not only an earlier job's"),
        pytest.param([_job("earlier") | {"controller": False}], id="not controlled by an earlier job"),
    ],
)
def test_a_name_that_somebody_else_has_is_said_before_anything_is_made(kind: str, owners: list[Object]) -> None:
    async def test(bench: Bench) -> None:
        plural = "pods" if kind == "workers" else kind
        _put(bench, plural, NAMES[kind], *owners)
        before = _everything(bench)
        with pytest.raises(NameTakenError, match=f"{NAMES[kind]} exists and is not this job's") as caught:
            await bench.run(EVERYTHING, workers(12))
        assert not caught.value.goes_by_itself
        assert _everything(bench) == before
        bench.server.remove(plural, Key(KEY.namespace, NAMES[kind]))
        await asyncio.sleep(6.0)
        assert await bench.run(EVERYTHING, workers(12))
        assert len(bench.names("pods")) == 13

    on_bench(test)


def test_whose_a_secret_is_costs_a_question_only_when_its_name_was_found_taken() -> None:
    async def test(bench: Bench) -> None:
        _put(bench, "secrets", "mnist-1")
        for made, gone, asked in (
            (["networkpolicies", "serviceaccounts", "secrets"], ["networkpolicies"], 1),
            ([], [], 1),
        ):
            bench.client.requests.clear()
            with pytest.raises(NameTakenError, match="Secret mnist-1 exists"):
                await bench.run(EVERYTHING)
            assert (bench.requests("create"), bench.requests("delete")) == (made, gone)
            assert len(bench.requests("get")) == asked
            assert bench.names("networkpolicies") == []
        bench.server.remove("secrets", Key(KEY.namespace, "mnist-1"))
        assert await bench.run(EVERYTHING)

    on_bench(test)


def test_an_attempt_with_free_names_asks_for_no_secret() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        assert bench.requests("get") == []

    on_bench(test)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("cached", [True, False])
def test_what_an_earlier_job_of_this_name_left_over_gives_way(kind: str, cached: bool) -> None:
    async def test(bench: Bench) -> None:
        plural = "pods" if kind == "workers" else kind
        labels = {"scaling.dev/job": KEY.name, "app.kubernetes.io/managed-by": "scaling-operator"}
        old = _put(bench, plural, NAMES[kind], _job("earlier"), labels=labels if cached else {})
        bench.look()
        if plural == "pods":  # a deleted pod is waited for, this one, without a node, until the next look
            with pytest.raises(NameTakenError, match="left over from an earlier job"):
                await bench.run(EVERYTHING, workers(12))
        assert await bench.run(EVERYTHING, workers(12))
        new = bench.server.get(plural, Key(KEY.namespace, NAMES[kind]))
        assert new["metadata"]["uid"] != old["metadata"]["uid"]
        assert new["metadata"]["ownerReferences"][0]["uid"] == bench.target.uid

    on_bench(test)


def test_a_pod_that_an_earlier_job_left_over_gets_its_grace_period() -> None:
    async def test(bench: Bench) -> None:
        old = _put(bench, "pods", "mnist-1-head", _job("earlier"))
        bench.server.update("pods", old | {"spec": old["spec"] | {"nodeName": "node"}})
        before = _everything(bench) | {"pods": []}
        for _ in range(2):
            with pytest.raises(NameTakenError, match="mnist-1-head is left over from an earlier job") as caught:
                await bench.run(EVERYTHING)
            assert caught.value.goes_by_itself
            assert _everything(bench) | {"pods": []} == before
            await asyncio.sleep(6.0)
        await asyncio.sleep(40.0)
        assert await bench.run(EVERYTHING)

    on_bench(test)


def test_a_job_that_has_a_successor_takes_nothing_from_it() -> None:
    async def test(bench: Bench) -> None:
        bench.server.remove("scalingjobs", KEY)  # which the cache does not show yet
        successor = bench.server.create("scalingjobs", {"metadata": {"name": KEY.name, "namespace": KEY.namespace}})
        _put(bench, "services", "mnist-1", _job(successor["metadata"]["uid"]))
        before = _everything(bench)
        with pytest.raises(NameTakenError):
            await bench.run(EVERYTHING)
        assert _everything(bench) == before

    on_bench(test)


def test_a_worker_whose_name_is_taken_keeps_no_other_from_coming() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        _put(bench, "pods", "mnist-1-cpu-1-0")
        with pytest.raises(NameTakenError, match="Pod mnist-1-cpu-1-0 exists"):
            await bench.run(workers(40))
        assert len(bench.names("pods")) == 41

    on_bench(test)


def test_jobs_that_begin_together_share_the_look_at_their_namespace() -> None:
    async def test(bench: Bench) -> None:
        await asyncio.gather(*(bench.run(EnsureAttempt(attempt, True, True, True)) for attempt in range(1, 11)))
        assert sorted(bench.requests("list")) == ["pods", "services"]
        await asyncio.sleep(6.0)
        await bench.run(EnsureAttempt(11, True, True, True))
        assert sorted(bench.requests("list")) == ["pods", "pods", "services", "services"]

    on_bench(test)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("plural", ["networkpolicies", "secrets", "services"])
def test_a_deletion_spares_what_somebody_put_in_the_place_of_ours(plural: str, restarted: bool) -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        bench.look()
        bench.server.remove(plural, Key(KEY.namespace, "mnist-1"))
        theirs = _put(bench, plural, "mnist-1")
        if restarted:
            bench.executor = bench.fresh()
            bench.look()
        await bench.run(DeleteAttempt(1))
        found = {name: [obj["metadata"]["uid"] for obj in objs] for name, objs in _everything(bench).items()}
        del found["pods"]
        assert {name: uids for name, uids in found.items() if uids} == {plural: [theirs["metadata"]["uid"]]}

    on_bench(test)


def test_templates_of_somebody_elses_secret_are_not_used() -> None:
    async def test(bench: Bench) -> None:
        await bench.run(EVERYTHING)
        [ours] = bench.server.all("secrets")
        bench.server.remove("secrets", Key(KEY.namespace, "mnist-1"))
        bench.server.create("secrets", ours | {"metadata": ours["metadata"] | {"ownerReferences": [_job("earlier")]}})
        bench.executor = bench.fresh()
        with pytest.raises(AttemptGoneError):
            await bench.run(workers(1))

    on_bench(test)


def test_a_job_that_was_edited_since_is_not_deleted() -> None:
    async def test(bench: Bench) -> None:
        edited = bench.server.update("scalingjobs", bench.target.manifest)
        await bench.run(DeleteJob())
        assert bench.server.get("scalingjobs", KEY) == edited
        bench.target = replace(bench.target, manifest=edited)
        await bench.run(DeleteJob())
        with pytest.raises(NotFoundError):
            bench.server.get("scalingjobs", KEY)

    on_bench(test)


def test_what_has_changed_hands_since_the_cache_saw_it_is_left_alone() -> None:
    async def test(bench: Bench) -> None:
        labels = {"scaling.dev/job": KEY.name, "app.kubernetes.io/managed-by": "scaling-operator"}
        seen = _put(bench, "services", "mnist-1", _job("earlier"), labels=labels)
        bench.look()
        released = bench.server.update("services", seen | {"metadata": seen["metadata"] | {"ownerReferences": []}})
        for goes_by_itself in (True, False):
            with pytest.raises(NameTakenError) as caught:
                await bench.run(EVERYTHING)
            assert caught.value.goes_by_itself is goes_by_itself
            assert list(bench.server.all("services")) == [released]
            bench.look()

    on_bench(test)
