"""Scenes of names: what somebody else has, what an earlier job left, what goes with its job."""

from __future__ import annotations

import asyncio

from scaling_api.reasons import Failure
from scaling_operator.runtime.objects import Key

from .simulation.kubelet import OWNED
from .simulation.scene import condition, in_world, message
from .simulation.server import copied
from .simulation.world import JOB, Trouble, World


def test_a_users_secret_beside_a_job_outlives_whatever_becomes_of_it() -> None:
    async def scene(world: World) -> None:
        secret = world.server.create("secrets", {"metadata": {"name": "mnist-1", "namespace": "team"}, "data": {}})
        await asyncio.sleep(30.0)
        assert condition(world, "ClusterReady") == ("False", Failure.REFUSED_BY_API)
        assert "Secret mnist-1 exists and is not this job's" in message(world, "ClusterReady")
        nothing: dict[str, list[str]] = {"pods": [], "services": [], "networkpolicies": []}
        assert world.left() == nothing | {"secrets": ["mnist-1"]}
        world.edit({"runPolicy": {"suspend": True}})
        await asyncio.sleep(30.0)
        assert world.status["phase"] == "Suspended"
        world.edit({"runPolicy": {"suspend": False}})
        await asyncio.sleep(60.0)
        assert (world.status["phase"], world.status["attempt"]) == ("Running", 2), "which has names of its own"
        world.delete()
        await asyncio.sleep(60.0)
        assert world.left() == nothing | {"secrets": ["mnist-1"]}
        assert world.server.get("secrets", Key("team", "mnist-1")) == secret

    in_world(scene)


def test_a_name_that_becomes_free_is_used() -> None:
    async def scene(world: World) -> None:
        world.server.create("services", {"metadata": {"name": "mnist-1", "namespace": "team"}, "spec": {}})
        await asyncio.sleep(30.0)
        requests = len(world.operator.client.requests)
        await asyncio.sleep(60.0)
        # Two lists every 20 s.
        assert len(world.operator.client.requests) - requests <= 4 * 2
        world.server.remove("services", Key("team", "mnist-1"))
        await asyncio.sleep(40.0)
        assert (world.status["phase"], world.status["attempt"]) == ("Running", 1)

    in_world(scene)


def test_a_successor_does_not_wait_for_the_garbage_collector() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        world.kubelet.collected_within_s = 1e9
        again = copied(world.job)
        world.delete()
        again["metadata"] = {"name": JOB.name, "namespace": JOB.namespace}
        del again["status"]
        created = world.server.create("scalingjobs", again)
        await asyncio.sleep(60.0)
        assert (world.status["phase"], world.status["attempt"], world.status["failures"]) == ("Running", 1, 0)
        owners = {obj["metadata"]["ownerReferences"][0]["uid"] for plural in OWNED for obj in world.server.all(plural)}
        assert owners == {created["metadata"]["uid"]}

    in_world(scene)


def test_what_a_job_was_deleted_without_stays_and_is_named() -> None:
    """kubectl delete --cascade=orphan: the garbage collector takes the owner references away."""

    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        again = copied(world.job)
        world.delete()
        for plural in OWNED:
            for obj in world.server.all(plural):
                orphan = copied(obj)
                del orphan["metadata"]["ownerReferences"]
                world.server.update(plural, orphan)
        again["metadata"] = {"name": JOB.name, "namespace": JOB.namespace}
        del again["status"]
        before = world.left()
        world.server.create("scalingjobs", again)
        await asyncio.sleep(30.0)
        assert "Service mnist-1 (and 4 more) exists and is not this job's" in message(world, "ClusterReady")
        assert world.left() == before
        assert not any("deletionTimestamp" in pod["metadata"] for pod in world.server.all("pods"))

    in_world(scene)


def test_of_a_job_that_is_deleted_in_the_foreground_nothing_is_made_anew() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        job = copied(world.job)
        job["metadata"] |= {"deletionTimestamp": world.server.time(), "finalizers": ["foregroundDeletion"]}
        world.server.update("scalingjobs", job)
        await world.cause(Trouble(0, "worker deleted", 0))
        await world.cause(Trouble(0, "head deleted", 0))
        before = list(world.operator.client.requests)
        await asyncio.sleep(60.0)
        assert world.operator.client.requests == before
        await world.restart()
        await asyncio.sleep(30.0)
        assert world.operator.client.requests == []

    in_world(scene)
