"""Scenes of what goes wrong around a job that is at work, and of its deadline."""

from __future__ import annotations

import asyncio

import pytest

from scaling_api.reasons import Failure
from scaling_operator.runtime.objects import key_of

from .simulation.scene import condition, driver_runs, in_world, message
from .simulation.server import copied
from .simulation.world import WORK_S, Trouble, World


@pytest.mark.parametrize("policy", ["All", "Running", "None"])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_deadline_lets_the_driver_save_with_its_workers(policy: str, restarted: bool) -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(60.0)
        head = world.pick(0, "head")
        assert head is not None
        workers = {pod["metadata"]["uid"] for pod in world.server.all("pods")} - {head["metadata"]["uid"]}

        def at_work() -> set[str]:
            return {
                pod["metadata"]["uid"] for pod in world.server.all("pods") if "deletionTimestamp" not in pod["metadata"]
            } & workers

        if restarted:
            await world.restart()
        saves_s = 0.0
        while driver_runs(world, head):
            stops = "deletionTimestamp" in world.server.get("pods", key_of(head))["metadata"]
            saves_s += 0.1 if stops else 0.0
            assert at_work() == workers
            await asyncio.sleep(0.1)
        assert saves_s > 1.0
        await asyncio.sleep(200.0)
        assert condition(world, "Failed") == ("True", Failure.DEADLINE_EXCEEDED)
        assert world.status["attempts"][-1]["reason"] == Failure.DEADLINE_EXCEEDED
        assert [event for event in world.status["conditions"] if event["type"] == "Succeeded"] == []
        assert at_work() == set()

    in_world(scene, activeDeadlineSeconds=60, cleanPodPolicy=policy)


def test_a_driver_that_writes_half_a_character_ends_its_job_all_the_same() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        head = world.pick(0, "head")
        assert head is not None
        told = {"reason": "UserError", "message": "no class \ud83d in 'a\ud83db'"}  # JSON's way to cut an emoji
        world.kubelet.end(head, exit_code=78, told=told)
        await asyncio.sleep(30.0)
        assert condition(world, "Failed") == ("True", Failure.USER_ERROR)
        assert message(world, "Failed") == "no class ? in 'a?b'"

    in_world(scene)


def test_an_unreadable_spec_is_judged_only_as_it_was_seen() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        jobs = world.operator.feeds[0]
        world.edit({"training": {"epochs": -1}})
        jobs.relist()
        jobs.lag_s = 100.0
        world.edit({"training": {"epochs": 1}})  # which the operator does not see while it judges the one before
        await asyncio.sleep(0.5)
        assert condition(world, "Accepted") == ("True", "Valid")
        await asyncio.sleep(120.0)
        assert condition(world, "Accepted") == ("True", "Valid")

    in_world(scene)


def test_a_standby_remembers_nothing_that_nobody_will_ask_for() -> None:
    async def scene(world: World) -> None:
        standby = world.standby()
        for _ in range(3):
            await asyncio.sleep(20.0)
            await world.cause(Trouble(0, "worker deleted", 0))
        await asyncio.sleep(30.0)
        assert sum(world.status["incarnations"].values()) == 3
        assert not any(notes.vanished for notes in standby._notebook.all())
        head = world.pick(0, "head")
        assert head is not None
        world.kubelet.evict(head)
        world.server.remove("pods", key_of(head))
        await asyncio.sleep(0.06)
        assert [list(notes.vanished) for notes in standby._notebook.all()] == [["mnist-1-head"]], "for its successor"
        await asyncio.sleep(WORK_S + 100.0)
        assert world.status["phase"] == "Succeeded"
        assert not any(notes.vanished for notes in standby._notebook.all())

    in_world(scene)


def test_a_namespace_that_goes_is_said_and_is_no_storm() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        world.faults.namespace_goes = True
        await world.cause(Trouble(0, "worker deleted", 0))
        before = len(world.operator.client.requests)
        await asyncio.sleep(120.0)
        sentence = "namespace team is being deleted: nothing can be made in it any more"
        assert sentence in message(world, "ClusterReady")
        assert len(world.operator.client.requests) - before < 15

    in_world(scene)


def test_a_secret_that_is_gone_is_noticed_before_pods_are_made_that_would_wait_for_it() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(70.0)
        world.server.remove("secrets", next(iter(world.server.objects["secrets"])))
        await world.cause(Trouble(0, "worker crashes", 0))
        await asyncio.sleep(30.0)
        first, _ = world.status["attempts"]
        assert (first["reason"], world.status["failures"]) == (Failure.OBJECTS_GONE, 0)
        assert world.status["phase"] == "Running"

    in_world(scene)


def test_a_worker_whose_ray_ended_beside_a_container_that_does_not_is_replaced() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        worker = copied(world.pick(0, "worker"))
        (ray,) = worker["status"]["containerStatuses"]
        proxy = {**copied(ray), "name": "istio-proxy"}
        ray["state"] = {"terminated": {"exitCode": 1, "reason": "Error"}}
        worker["status"]["containerStatuses"].append(proxy)
        world.server.update("pods", worker)
        await asyncio.sleep(30.0)
        assert world.status["incarnations"] == {"cpu-0": 1}
        assert worker["metadata"]["name"] not in world.left()["pods"], "it would keep its node's room"

    in_world(scene)
