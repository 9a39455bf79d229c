from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import REGISTRY

from scaling_operator.events import COUNT_INTERVAL_S, MAX_NOTE_CHARACTERS, MAX_NOTES, SERIES_S, EventRecorder
from scaling_operator.runtime.client import ApiClient
from tests.unit.scaling_operator.runtime.scripted_server import Received, ScriptedServer, answer, failure, until

EVENTS = "/apis/events.k8s.io/v1/namespaces/team/events"
JOB = {
    "apiVersion": "scaling.dev/v1alpha1",
    "kind": "ScalingJob",
    "metadata": {"name": "mnist", "namespace": "team", "uid": "u1", "resourceVersion": "7"},
}


class Clock:
    now = 1_900_000_000.25

    def __call__(self) -> float:
        return self.now


def _answered() -> float:
    """Of all recorders of this process."""
    outcomes = ("sent", "failed")
    return sum(REGISTRY.get_sample_value("scaling_events_total", {"result": result}) or 0.0 for result in outcomes)


class Recorded:
    """A recorder with its server; `sent` waits until that many requests have been answered.

    One that has only arrived is sent again when the recorder ends.
    """

    def __init__(self, server: ScriptedServer, client: ApiClient, **options: Any) -> None:
        self.clock = Clock()
        self.server = server
        self.recorder = EventRecorder(client, clock=self.clock, **options)
        self._answered_before = _answered()

    def record(self, reason: str = "WorkerReplaced", note: str = "why", of: Any = JOB) -> None:
        self.recorder.record(of, "Normal", reason, note)

    async def sent(self, count: int) -> list[Received]:
        await until(lambda: _answered() - self._answered_before >= count)
        return self.server.received


@asynccontextmanager
async def recording(*, running: bool = True, **options: Any) -> AsyncIterator[Recorded]:
    async with ScriptedServer() as server, ApiClient(server.connection()) as client:
        server.on("POST", EVENTS, answer({}))
        recorded = Recorded(server, client, **options)
        sender = asyncio.create_task(recorded.recorder.run()) if running else None
        yield recorded
        if sender is not None:
            sender.cancel()
            await asyncio.wait({sender})


async def test_an_event_is_about_its_object() -> None:
    async with recording(instance="operator-0") as events:
        events.record(note="x" * 5000)
        (sent,) = await events.sent(1)
    body = sent.body
    assert body["apiVersion"] == "events.k8s.io/v1"
    assert body["regarding"] == {
        "apiVersion": "scaling.dev/v1alpha1",
        "kind": "ScalingJob",
        "namespace": "team",
        "name": "mnist",
        "uid": "u1",
        "resourceVersion": "7",
    }
    assert body["eventTime"] == "2030-03-17T17:46:40.250000Z"
    assert (body["type"], body["reason"]) == ("Normal", "WorkerReplaced")
    assert body["reportingInstance"] == "operator-0"
    assert len(body["note"]) == MAX_NOTE_CHARACTERS


async def test_repetitions_are_counted_in_place_and_seldom() -> None:
    async with recording() as events:
        for _ in range(500):
            events.record()
            events.clock.now += 1
        requests = await events.sent(1)
        name = requests[0].body["metadata"]["name"]
        events.server.on("PATCH", f"{EVENTS}/{name}", answer({}))
        events.record("Other")
        await events.sent(10)
    patches = events.server.requests("PATCH")
    assert len(patches) == 500 // COUNT_INTERVAL_S
    assert all(patch.path == f"{EVENTS}/{name}" for patch in patches)
    assert set(patches[-1].body) == {"series"}
    assert patches[-1].body["series"]["count"] > 400
    assert len(events.server.requests("POST")) == 2


async def test_another_reason_object_or_time_is_an_event_of_its_own() -> None:
    async with recording() as events:
        events.record()
        events.record("Suspended")
        events.record(of={**JOB, "metadata": {**JOB["metadata"], "uid": "u2"}})  # type: ignore[dict-item]
        events.clock.now += SERIES_S
        events.record()
        await events.sent(4)
    assert len({request.body["metadata"]["name"] for request in events.server.requests("POST")}) == 4


async def test_what_says_something_else_is_an_event_of_its_own_up_to_a_few() -> None:
    async with recording() as events:
        for index in range(3 * MAX_NOTES):
            events.record(note=f"worker {index} is replaced")
        events.record("Other")
        requests = await events.sent(MAX_NOTES + 1)
        assert [request.body["note"] for request in requests[:-1]] == [
            f"worker {index} is replaced" for index in range(MAX_NOTES)
        ]
        events.clock.now += SERIES_S
        events.record(note="another day")
        assert (await events.sent(MAX_NOTES + 2))[-1].body["note"] == "another day"


async def test_what_is_recorded_before_the_end_is_still_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaling_operator.events.DRAIN_S", 60.0)  # the time of a loaded machine
    async with recording() as recorded:
        await asyncio.sleep(0)
        recorded.record("First")
        recorded.record("Second")
    assert [request.body["reason"] for request in recorded.server.received] == ["First", "Second"]


async def test_a_full_queue_drops_and_never_blocks() -> None:
    async with recording(running=False, queue_size=2) as events:
        for index in range(10):
            events.record(f"Reason{index}")
        sender = asyncio.create_task(events.recorder.run())
        await events.sent(2)
        # What was dropped is no series: the next one of its kind is sent.
        events.record("Reason9")
        requests = await events.sent(3)
        sender.cancel()
        await asyncio.wait({sender})
    assert [request.body["reason"] for request in requests] == ["Reason0", "Reason1", "Reason9"]


async def test_a_refused_event_is_given_up() -> None:
    async with recording() as events:
        events.server.on("POST", EVENTS, failure(403, "Forbidden"), answer({}))
        events.record("First")
        events.record("Second")
        requests = await events.sent(2)
    assert [request.body["reason"] for request in requests] == ["First", "Second"]
