"""The controller as a whole: scenes from a job's life in a simulated cluster."""

from __future__ import annotations

import asyncio
import logging
from copy import deepcopy
from typing import Any

import pytest

from scaling_api.reasons import Failure
from scaling_operator.runtime.errors import ApiError, ServerUnavailableError, TooManyRequestsError
from scaling_operator.runtime.logs import fields_of

from .simulation.scene import condition as _condition
from .simulation.scene import driver_runs as _driver_runs
from .simulation.scene import in_world as _in_world
from .simulation.scene import message as _message
from .simulation.server import copied
from .simulation.world import JOB, WORK_S, Trouble, World


def test_a_cluster_comes_up_with_two_writes_of_status() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(8.0)
        assert world.status["phase"] == "Running"
        writes = [plural for verb, plural in world.operator.client.requests if verb == "patch"]
        assert len(writes) == 2
        await asyncio.sleep(10.0)  # the counters follow
        assert world.status["workers"] == "3/3"

    _in_world(scene)


@pytest.mark.parametrize(
    ("trouble", "reason", "holds"),
    [
        pytest.param("no room for heads", Failure.UNSCHEDULABLE, 0, id="no node takes it: they never come"),
        pytest.param("no images", Failure.IMAGE_PULL_FAILED, 3, id="no image: they go after a minute"),
    ],
)
def test_a_head_that_cannot_start_holds_no_workers(trouble: str, reason: Failure, holds: int) -> None:
    async def scene(world: World) -> None:
        def workers() -> int:
            return sum("head" not in name for name in world.left()["pods"])

        await world.cause(Trouble(0, trouble, 0))
        await asyncio.sleep(40.0)
        assert _condition(world, "ClusterReady") == ("False", reason)
        assert workers() == holds
        await asyncio.sleep(60.0)
        assert workers() == 0
        assert "workers come when the head can start" in _message(world, "ClusterReady")
        await world.restart()
        await asyncio.sleep(30.0)
        assert workers() == 0, "an operator that has just come does not know since when, and brings none"
        await world.cause(Trouble(0, trouble, 1))
        await asyncio.sleep(30.0)
        assert world.status["phase"] == "Running"
        assert (world.status["failures"], world.status["workerGroups"][0]["replaced"]) == (0, 0)

    _in_world(scene)


def test_nothing_is_asked_of_the_server_while_nothing_happens() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(30.0)
        before = len(world.operator.client.requests)
        await asyncio.sleep(WORK_S - 40.0)
        assert len(world.operator.client.requests) == before

    _in_world(scene)


def test_a_restart_of_the_operator_changes_nothing() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(30.0)
        before = deepcopy(world.server.objects)
        await world.restart()
        await asyncio.sleep(30.0)
        assert world.server.objects == before
        assert world.operator.client.requests == []

    _in_world(scene)


def test_what_the_server_refuses_is_shown_and_heals() -> None:
    async def scene(world: World) -> None:
        world.faults.pods_refused = True
        await asyncio.sleep(60.0)
        assert _condition(world, "ClusterReady") == ("False", Failure.REFUSED_BY_API)
        assert world.status["failures"] == 0
        # At 0, 5, 15, 35 and 55 s.
        assert world.operator.client.requests.count(("create", "pods")) == 5
        world.faults.pods_refused = False
        await asyncio.sleep(30.0)
        assert world.status["phase"] == "Running"

    _in_world(scene)


@pytest.mark.parametrize(
    ("jitter", "tries"),
    [
        pytest.param(0.0, 6, id="at 0, 4, 12, 28, 44 and 60 s"),
        pytest.param(1.0, 4, id="at 0, 6, 18, 42 and 66 s"),
    ],
)
def test_jobs_that_wait_for_a_quota_do_not_all_ask_at_once(jitter: float, tries: int) -> None:
    async def scene(world: World) -> None:
        world.faults.pods_refused, world.faults.jitter = True, jitter
        await asyncio.sleep(64.0)
        assert world.operator.client.requests.count(("create", "pods")) == tries

    _in_world(scene)


def test_a_quota_that_others_use_more_of_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(world: World) -> None:
        world.faults.pods_refused = True
        quota = "exceeded quota: compute, requested: pods=1, used: pods={},requests.cpu={}, limited: pods={}"
        writes = ("patch", "scalingjobs")
        world.faults.refusal = quota.format(9, 5, 9)
        await asyncio.sleep(3.0)
        before = world.operator.client.requests.count(writes)
        world.faults.refusal = quota.format(8, 7, 9)
        await asyncio.sleep(40.0)
        assert world.operator.client.requests.count(writes) == before
        world.faults.refusal = quota.format(8, 7, 8)
        await asyncio.sleep(40.0)
        assert "limited: pods=8" in _message(world, "ClusterReady")

    with caplog.at_level("WARNING", "scaling_operator"):
        _in_world(scene)
    assert sum("exceeded quota" in message for message in caplog.messages) == 2


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ServerUnavailableError(500, "InternalError", "failed calling webhook x"), id="a webhook is down"),
        pytest.param(TooManyRequestsError(429, "TooManyRequests", "come again", retry_after_s=1.0), id="too busy"),
    ],
)
def test_a_server_that_keeps_failing_is_shown_and_tried_again(error: ApiError) -> None:
    async def scene(world: World) -> None:
        world.faults.pods_fail = error
        await asyncio.sleep(3.0)
        assert _condition(world, "ClusterReady") == ("False", "WaitingForHead")
        await asyncio.sleep(57.0)
        assert _condition(world, "ClusterReady") == ("False", Failure.REFUSED_BY_API)
        assert error.message in _message(world, "ClusterReady")
        assert world.status["failures"] == 0
        world.faults.pods_fail = None
        await asyncio.sleep(60.0)
        assert world.status["phase"] == "Running"

    _in_world(scene)


def test_a_server_that_does_not_answer_is_shown_with_what_was_asked_of_it() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        world.faults.pods_hang = True
        await world.cause(Trouble(0, "worker crashes", 0))
        world.edit({"runPolicy": {"activeDeadlineSeconds": 1000}})
        await asyncio.sleep(50.0)
        assert world.status["observedGeneration"] == 2
        assert "creating worker pods of attempt 1 had not come to an end after 40 s" in _message(world, "ClusterReady")
        world.faults.pods_hang = False
        await asyncio.sleep(80.0)  # the next try may have begun before
        assert world.status["workers"] == "3/3"

    _in_world(scene)


def test_a_lost_worker_is_noted_although_creating_another_fails() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        world.faults.pods_fail = ServerUnavailableError(500, "InternalError", "failed calling webhook x")
        world.edit({"cluster": {"workers": [{"name": "cpu", "min": 1, "max": 4}]}})
        await asyncio.sleep(1.0)
        await world.cause(Trouble(0, "worker crashes", 0))
        await asyncio.sleep(3.0)
        assert world.status["incarnations"] == {"cpu-0": 1}

    _in_world(scene)


def test_a_refusal_of_workers_beyond_the_least_leaves_the_job_running_and_goes_with_its_cause() -> None:
    async def scene(world: World) -> None:
        world.edit({"cluster": {"workers": [{"name": "cpu", "min": 1, "max": 1}]}})
        await asyncio.sleep(20.0)
        world.faults.pods_refused = True
        world.edit({"cluster": {"workers": [{"name": "cpu", "min": 1, "max": 3}]}})
        await asyncio.sleep(20.0)
        assert _condition(world, "ClusterReady") == ("True", "ClusterReady")
        assert "is refused: exceeded quota" in _message(world, "ClusterReady")
        assert world.status["phase"] == "Running"
        world.edit({"cluster": {"workers": [{"name": "cpu", "min": 1, "max": 1}]}})
        await asyncio.sleep(70.0)  # the pause after a refusal, and that between counters
        assert "refused" not in _message(world, "ClusterReady")

    _in_world(scene)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"training": {"epochs": -1}}, id="a value that the models refuse"),
        pytest.param({"cluster": {"podOverrides": {"spec": {"containers": []}}}}, id="an override that is not allowed"),
        pytest.param(
            {"cluster": {"podOverrides": {"metadata": {"annotations": {"note": "x" * 400_000}}}}},
            id="more than a Secret holds",
        ),
    ],
)
def test_a_spec_that_cannot_be_run_waits_until_it_can(wrong: dict[str, Any]) -> None:
    async def scene(world: World) -> None:
        right = copied((world.job or {})["spec"])
        world.edit({**wrong, "runPolicy": {"suspend": False}})
        await asyncio.sleep(20.0)
        assert _condition(world, "Accepted") == ("False", Failure.INVALID_SPEC)
        assert world.status["phase"] == "Pending"
        assert not any(world.left().values())
        world.edit({"training": right["training"], "cluster": {"podOverrides": None}})
        await asyncio.sleep(20.0)
        assert _condition(world, "Accepted")[0] == "True"
        assert world.status["phase"] == "Running"

    _in_world(scene)


@pytest.mark.parametrize(
    ("gone_s", "incarnations"),
    [
        pytest.param(1.0, {"cpu-1": 1, "cpu-2": 1}, id="while the old pods still terminate"),
        pytest.param(60.0, {}, id="long after"),
    ],
)
def test_more_workers_after_fewer_are_no_losses(
    gone_s: float, incarnations: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        world.edit({"cluster": {"workers": [{"name": "cpu", "min": 1, "max": 1}]}})
        await asyncio.sleep(gone_s)
        world.edit({"cluster": {"workers": [{"name": "cpu", "min": 1, "max": 3}]}})
        await asyncio.sleep(40.0)
        assert world.status["workers"] == "3/3"
        assert world.status.get("incarnations", {}) == incarnations
        assert world.status["workerGroups"][0]["replaced"] == 0

    with caplog.at_level("INFO", "scaling_operator"):
        _in_world(scene)
    told = [message.partition(":")[0] for message in caplog.messages]  # events are logged as well
    assert "AttemptStarted" in told
    assert "WorkerReplaced" not in told


def test_a_worker_that_could_not_be_deleted_and_is_wanted_again_is_lost_like_any(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        world.faults.deletions_fail = ServerUnavailableError(500, "InternalError", "failed calling webhook x")
        world.edit({"cluster": {"workers": [{"name": "cpu", "min": 1, "max": 1}]}})
        await asyncio.sleep(2.0)
        world.edit({"cluster": {"workers": [{"name": "cpu", "min": 1, "max": 3}]}})
        await asyncio.sleep(2.0)
        world.faults.deletions_fail = None
        await asyncio.sleep(20.0)
        await world.cause(Trouble(0, "worker crashes", 2))
        await asyncio.sleep(20.0)
        assert world.status["incarnations"] == {"cpu-2": 1}
        assert world.status["workerGroups"][0]["replaced"] == 1

    with caplog.at_level("INFO", "scaling_operator"):
        _in_world(scene)
    assert "WorkerReplaced" in [message.partition(":")[0] for message in caplog.messages]


def test_of_workers_that_were_replaced_nothing_is_remembered() -> None:
    async def scene(world: World) -> None:
        for _ in range(3):
            await asyncio.sleep(20.0)
            await world.cause(Trouble(0, "worker deleted", 0))
        await asyncio.sleep(30.0)
        assert sum(world.status["incarnations"].values()) == 3
        (notes,) = world.operator.controller._notebook.all()
        assert notes.vanished == {}

    _in_world(scene)


def test_of_a_job_that_has_ended_nothing_is_remembered() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        await world.cause(Trouble(0, "worker crashes", 0))
        await asyncio.sleep(WORK_S + 60.0)
        assert world.status["phase"] == "Succeeded"
        assert not any(world.left().values())
        assert world.operator.controller._notebook.all() == []

    _in_world(scene)


def test_an_answer_ends_a_time_of_failures() -> None:
    async def scene(world: World) -> None:
        down = ServerUnavailableError(500, "InternalError", "failed calling webhook x")
        world.faults.pods_fail = down
        await asyncio.sleep(1.0)
        world.faults.pods_fail, world.faults.pods_refused = None, True
        await asyncio.sleep(20.0)
        assert "exceeded quota" in _message(world, "ClusterReady")
        world.faults.pods_fail, world.faults.pods_refused = down, False
        tried = world.operator.client.requests.count(("create", "pods"))
        for _ in range(600):
            await asyncio.sleep(0.1)
            if world.operator.client.requests.count(("create", "pods")) > tried:
                break
        await asyncio.sleep(1.0)
        assert "keeps failing" not in _message(world, "ClusterReady")

    _in_world(scene)


def test_a_spec_that_becomes_unreadable_leaves_the_running_job_alone() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        before = world.left()
        world.edit({"training": {"epochs": -1}})
        await asyncio.sleep(20.0)
        assert _condition(world, "Accepted") == ("False", Failure.INVALID_SPEC)
        assert (world.status["phase"], world.left()) == ("Running", before)
        judged_for = {entry["type"]: entry["observedGeneration"] for entry in world.status["conditions"]}
        assert judged_for == dict.fromkeys(judged_for, 1) | {"Accepted": 2}, "nothing else was looked at"

    _in_world(scene)


def test_a_job_that_ends_while_the_operator_is_away_has_its_result() -> None:
    report: dict[str, Any] = {
        "attempt": 1,
        "progress": {"stage": "report", "percent": 100.0, "summary": "done", "updatedAt": "2030-01-01T00:00:00Z"},
        "stages": [{"name": "train", "state": "Succeeded"}],
        "result": {"metrics": {"accuracy": 0.97}, "artifacts": [{"name": "model", "uri": "s3://runs/model"}]},
    }

    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        restarting = asyncio.create_task(world.restart(away_s=600.0))
        await asyncio.sleep(1.0)
        head = world.pick(0, "head")
        assert head is not None
        world.kubelet.end(head, exit_code=0, told=report)
        await restarting
        await asyncio.sleep(60.0)
        assert world.status["phase"] == "Succeeded"
        assert {name: world.status[name] for name in ("progress", "stages", "result")} == {
            name: report[name] for name in ("progress", "stages", "result")
        }
        assert world.left()["pods"] == []

    _in_world(scene)


def test_a_head_that_the_cluster_took_while_the_operator_was_away_does_not_count() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        restarting = asyncio.create_task(world.restart(away_s=120.0))
        await asyncio.sleep(1.0)
        await world.cause(Trouble(0, "head drained", 0))
        await restarting
        await asyncio.sleep(30.0)
        assert (world.status["phase"], world.status["attempt"], world.status["failures"]) == ("Running", 2, 0)
        assert world.status["attempts"][0]["reason"] == Failure.POD_DELETED
        assert "did not see who took it" in world.status["attempts"][0]["message"]

    _in_world(scene, backoffLimit=0)


def test_a_head_that_the_cluster_took_between_two_lists_does_not_count() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        pods = world.operator.feeds[1]
        pods.lag_s = 10_000.0  # the watch is silent
        await world.cause(Trouble(0, "head drained", 0))
        await asyncio.sleep(60.0)
        assert world.status["attempt"] == 1
        pods.lag_s = 0.05
        pods.relist()
        await asyncio.sleep(30.0)
        assert (world.status["phase"], world.status["attempt"], world.status["failures"]) == ("Running", 2, 0)

    _in_world(scene, backoffLimit=0)


def test_a_result_that_was_reported_is_not_lost_with_a_head_that_nobody_saw_end() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        restarting = asyncio.create_task(world.restart(away_s=120.0))
        await asyncio.sleep(1.0)
        # Another replica took the last report, of a driver whose node then went.
        told = {"reportedAttempt": 1, "progress": {"summary": "done"}, "result": {"metrics": {"accuracy": 0.97}}}
        world.server.patch("scalingjobs", JOB, {"status": told}, part="status")
        await world.cause(Trouble(0, "head drained", 0))
        await restarting
        await asyncio.sleep(30.0)
        assert (world.status["phase"], world.status["attempt"]) == ("Succeeded", 1)
        assert world.status["result"] == told["result"]

    _in_world(scene)


def test_last_words_that_the_server_refuses_do_not_keep_a_job_from_ending() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        world.faults.field_refused = "result"
        head = world.pick(0, "head")
        assert head is not None
        world.kubelet.end(head, exit_code=0, told={"attempt": 1, "result": {"metrics": {"accuracy": 0.97}}})
        await asyncio.sleep(60.0)
        assert world.status["phase"] == "Succeeded"
        assert "result" not in world.status
        assert world.left()["pods"] == []
        before = len(world.operator.client.requests)
        await asyncio.sleep(60.0)
        assert len(world.operator.client.requests) == before

    _in_world(scene)


def test_each_log_line_says_which_attempt_it_is_about() -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((record.getMessage(), fields_of(record)))

    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        head = world.pick(0, "head")
        assert head is not None
        world.kubelet.end(head, exit_code=1)
        world.faults.pods_refused = True
        await asyncio.sleep(60.0)

    logger, handler = logging.getLogger("scaling_operator"), Seen()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        _in_world(scene)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    told = [(message.partition(":")[0], fields.get("attempt")) for message, fields in seen]
    assert ("AttemptStarted", 1) in told
    assert ("DriverFailed", 1) in told
    assert ("AttemptStarted", 2) in told
    refused = next(fields for message, fields in seen if "exceeded quota" in message)
    assert {"namespace": "team", "job": "mnist", "attempt": 2}.items() <= refused.items()


def test_drains_do_not_use_up_the_attempts_and_take_no_worker_from_a_driver_that_saves() -> None:
    async def scene(world: World) -> None:
        for drained in (1, 2, 3):
            await asyncio.sleep(40.0)
            await world.cause(Trouble(0, "head drained", 0))
            head, workers = world.pick(0, "head"), world.left()["pods"][:3]
            while head is not None and head["metadata"]["name"] in world.left()["pods"]:
                assert world.left()["pods"][:3] == workers or not _driver_runs(world, head)
                await asyncio.sleep(0.5)
            await asyncio.sleep(30.0)
            assert (world.status["attempt"], world.status["failures"]) == (drained + 1, 0)
            assert world.status["attempts"][-2]["reason"] == Failure.EVICTED

    _in_world(scene, backoffLimit=1)


def test_an_attempt_without_its_secret_is_followed_by_the_next() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        world.server.remove("secrets", next(iter(world.server.objects["secrets"])))
        await world.restart()  # or the templates would still be in memory
        await world.cause(Trouble(0, "worker crashes", 0))
        await asyncio.sleep(30.0)
        first, second = world.status["attempts"]
        assert first["reason"] == Failure.OBJECTS_GONE
        assert world.status["failures"] == 0
        assert second.get("endedAt") is None
        assert world.status["phase"] == "Running"

    _in_world(scene)


def test_an_edit_between_suspending_and_resuming_that_nobody_saw_is_no_failure() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        world.edit({"runPolicy": {"suspend": True}})
        world.edit({"cluster": {"workers": [{"name": "gpu", "min": 1, "max": 1}]}})
        world.edit({"runPolicy": {"suspend": False}})
        await asyncio.sleep(60.0)
        assert (world.status["attempt"], world.status["failures"], world.status["phase"]) == (2, 0, "Running")
        assert _condition(world, "UpToDate")[0] == "True"
        assert [group["name"] for group in world.status["workerGroups"]] == ["gpu"]

    _in_world(scene)


def test_an_edit_that_nobody_saw_while_there_was_no_head_is_run_by_the_next_attempt() -> None:
    async def scene(world: World) -> None:
        world.faults.pods_refused = True
        await asyncio.sleep(20.0)
        world.edit({"runPolicy": {"suspend": True}})
        world.edit({"cluster": {"image": "runtime:2"}})
        world.edit({"runPolicy": {"suspend": False}})
        world.faults.pods_refused = False
        await asyncio.sleep(60.0)
        assert (world.status["attempt"], world.status["failures"], world.status["phase"]) == (2, 0, "Running")
        assert _condition(world, "UpToDate")[0] == "True"
        head = world.pick(0, "head")
        assert head is not None
        assert {container["image"] for container in head["spec"]["containers"]} == {"runtime:2"}

    _in_world(scene)


def test_the_same_name_again_right_after_deletion() -> None:
    async def scene(world: World) -> None:
        await asyncio.sleep(20.0)
        again = copied(world.job)
        world.delete()
        again["metadata"] = {"name": JOB.name, "namespace": JOB.namespace}
        del again["status"]
        world.server.create("scalingjobs", again)
        await asyncio.sleep(60.0)
        assert (world.status["phase"], world.status["attempt"], world.status["failures"]) == ("Running", 1, 0)

    _in_world(scene)


def test_another_job_of_the_same_name_inherits_nothing() -> None:
    async def scene(world: World) -> None:
        world.faults.pods_refused = True
        await asyncio.sleep(40.0)  # the next try would be at 75 s
        again = copied(world.job)
        world.delete()
        again["metadata"] = {"name": JOB.name, "namespace": JOB.namespace}
        del again["status"]
        world.faults.pods_refused = False
        world.server.create("scalingjobs", again)
        for feed in world.operator.feeds:
            feed.relist()  # the deletion itself is never seen
        await asyncio.sleep(15.0)
        assert world.status["phase"] == "Running"
        assert len(world.operator.controller._notebook.all()) == 1

    _in_world(scene)


def test_a_job_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    async def scene(world: World) -> None:
        job = copied(world.job)
        job["metadata"]["deletionTimestamp"] = world.server.time()
        world.server.update("scalingjobs", job)
        await asyncio.sleep(20.0)
        assert [plural for verb, plural in world.operator.client.requests if verb == "create"] == []

    _in_world(scene)
