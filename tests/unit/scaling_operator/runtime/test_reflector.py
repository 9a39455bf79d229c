from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from scaling_operator.runtime.client import ApiClient
from scaling_operator.runtime.objects import Object, key_of
from scaling_operator.runtime.reflector import STALE_LISTS_TOLERATED, Reflector, ReflectorTiming
from scaling_operator.runtime.store import Store
from tests.unit.scaling_operator.runtime.scripted_server import (
    ScriptedServer,
    bookmark,
    drop,
    failure,
    hang,
    listing,
    pod,
    stream,
    until,
)

PODS = "/api/v1/pods"
QUICK = ReflectorTiming(silence_s=60, backoff_base_s=0.02, backoff_max_s=0.1)
# What is waited out where a server is silent: far longer than one that is not takes to answer, and yet short.
QUIET_S = 3.0
FORBIDDEN = ("ERROR", {"kind": "Status", "code": 403, "reason": "Forbidden", "message": "no watch"})
GONE = ("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[ApiClient]:
    async with ApiClient(server.connection(), request_timeout_s=60) as client:
        yield client


@contextlib.asynccontextmanager
async def running(reflector: Reflector) -> AsyncIterator[list[str]]:
    """Run `reflector`; yields the changes that its store reports, as text."""
    changes: list[str] = []

    def note(change: str, old: Object | None, new: Object | None) -> None:
        changes.append(f"{change} {key_of(new or old or {}).name}")

    reflector.store.add_handler(note)
    task = asyncio.create_task(reflector.run())
    try:
        yield changes
        assert not task.done(), "the reflector must never end by itself"
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_lists_in_pages_then_watches_from_there(server: ScriptedServer, client: ApiClient) -> None:
    server.on("GET", PODS, listing(pod("a", 1), version=9, token="t"), listing(pod("b", 2), version=9))
    server.on("WATCH", PODS, stream(("ADDED", pod("c", 10)), ("DELETED", pod("a", 11)), bookmark(20)))
    store = Store("pods")
    async with running(Reflector(client, PODS, store, label_selector="app=x", timing=QUICK)) as changes:
        await until(lambda: store.resource_version == 20)
    assert changes == ["ADDED a", "ADDED b", "ADDED c", "DELETED a"]
    watch = server.requests("WATCH")[0]
    assert watch.query["resourceVersion"] == "9"
    assert watch.query["labelSelector"] == "app=x"
    assert 300 <= int(watch.query["timeoutSeconds"]) <= 600


async def test_objects_are_trimmed_and_name_their_kind(server: ScriptedServer, client: ApiClient) -> None:
    fat = {"apiVersion": "v1", "kind": "Pod", "extra": 1}
    listed, watched = pod("a", 1, extra=1), pod("b", 10, **fat)
    listed["metadata"]["managedFields"] = watched["metadata"]["managedFields"] = [{"manager": "m"}]
    server.on("GET", PODS, listing(listed, version=9))
    server.on("WATCH", PODS, stream(("ADDED", watched)))

    def drop_extra(obj: Object) -> Object:
        del obj["extra"]
        return obj

    store = Store("pods")
    async with running(Reflector(client, PODS, store, transform=drop_extra, timing=QUICK)):
        await until(lambda: len(store) == 2)
    for name, version in (("a", 1), ("b", 10)):
        assert store.get("ns", name) == pod(name, version, apiVersion="v1", kind="Pod")


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(stream(("ADDED", pod("b", 10)), end="close"), id="server closes"),
        pytest.param(stream(("ADDED", pod("b", 10)), end="drop"), id="connection drops"),
        pytest.param(stream(("ADDED", pod("b", 10)), raw=b"{broken\n"), id="garbage"),
        pytest.param(stream(("ADDED", pod("b", 10)), FORBIDDEN), id="right taken away"),
    ],
)
async def test_a_broken_watch_goes_on_from_the_last_event(
    server: ScriptedServer, client: ApiClient, broken: object
) -> None:
    await _goes_on_from_the_last_event(server, client, broken, QUICK)


async def test_a_silent_watch_goes_on_from_the_last_event(server: ScriptedServer, client: ApiClient) -> None:
    silent = stream(("ADDED", pod("b", 10)), end="hang")
    await _goes_on_from_the_last_event(server, client, silent, replace(QUICK, silence_s=QUIET_S))


async def _goes_on_from_the_last_event(
    server: ScriptedServer, client: ApiClient, broken: object, timing: ReflectorTiming
) -> None:
    server.on("GET", PODS, listing(pod("a", 1), version=9))
    server.on("WATCH", PODS, broken, stream(("ADDED", pod("c", 11))))  # type: ignore[arg-type]
    store = Store("pods")
    async with running(Reflector(client, PODS, store, timing=timing)) as changes:
        await until(lambda: len(store) == 3)
    assert changes == ["ADDED a", "ADDED b", "ADDED c"]
    assert len(server.requests("GET")) == 1
    assert server.requests("WATCH")[1].query["resourceVersion"] == "10"


@pytest.mark.parametrize(
    "expiry", [pytest.param(stream(GONE), id="in the stream"), pytest.param(failure(410, "Expired"), id="as status")]
)
async def test_after_an_expiry_the_difference_is_told(
    server: ScriptedServer, client: ApiClient, expiry: object
) -> None:
    server.on(
        "GET",
        PODS,
        listing(pod("stays", 1), pod("goes", 2), version=9),
        listing(pod("stays", 1), pod("comes", 30), version=40),
    )
    server.on("WATCH", PODS, expiry, stream())  # type: ignore[arg-type]
    store = Store("pods")
    async with running(Reflector(client, PODS, store, timing=QUICK)) as changes:
        await until(lambda: store.resource_version == 40)
        await until(lambda: len(server.requests("WATCH")) >= 2)
    assert changes == ["ADDED stays", "ADDED goes", "MISSED goes", "ADDED comes"]
    assert server.requests("WATCH")[1].query["resourceVersion"] == "40"


async def test_a_list_that_expires_between_pages_is_begun_anew(server: ScriptedServer, client: ApiClient) -> None:
    server.on(
        "GET",
        PODS,
        listing(pod("a", 1), version=9, token="t"),
        failure(410, "Expired"),
        listing(pod("a", 1), pod("b", 12), version=13),
    )
    server.on("WATCH", PODS, stream())
    async with running(Reflector(client, PODS, store := Store("pods"), timing=QUICK)) as changes:
        await until(lambda: store.resource_version == 13)
    assert changes == ["ADDED a", "ADDED b"]


async def test_lists_that_always_expire_are_no_storm(server: ScriptedServer, client: ApiClient) -> None:
    server.on("GET", PODS, listing(version=9))
    server.on("WATCH", PODS, failure(410, "Expired"))
    async with running(Reflector(client, PODS, Store("pods"), timing=QUICK)):
        await until(lambda: len(server.requests("GET")) >= 12)
    # Pauses of 10-20, 20-40, 40-80, then 50-100 ms: reset after each list they would come to 220 ms at most.
    lists = server.requests("GET")[:12]
    assert lists[-1].at - lists[0].at >= 0.46


async def test_retry_after_is_honoured(server: ScriptedServer, client: ApiClient) -> None:
    server.on("GET", PODS, listing(version=9))
    server.on("WATCH", PODS, failure(429, "TooManyRequests", retry_after_s=1), stream())
    async with running(Reflector(client, PODS, Store("pods"), timing=QUICK)):
        await until(lambda: len(server.requests("WATCH")) == 2)
    first, second = server.requests("WATCH")
    assert second.at - first.at >= 1.0


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(hang(), id="hung"),
        pytest.param(drop(), id="dropping"),
        pytest.param(failure(403, "Forbidden"), id="forbidding"),
        pytest.param(failure(404, "NotFound"), id="without the kind"),
        pytest.param(failure(500, "InternalError"), id="failing"),
    ],
)
async def test_a_server_that_cannot_list_is_tried_again(server: ScriptedServer, fault: object) -> None:
    server.on("GET", PODS, fault)  # type: ignore[arg-type]
    store = Store("pods")
    async with (
        ApiClient(server.connection(), request_timeout_s=QUIET_S) as client,
        running(Reflector(client, PODS, store, timing=QUICK)),
    ):
        await until(lambda: len(server.received) >= 1)
        assert not store.has_synced
        server.on("GET", PODS, listing(pod("a", 1), version=9))
        server.on("WATCH", PODS, stream())
        await until(lambda: store.has_synced)


async def test_a_lasting_problem_is_logged_once(
    server: ScriptedServer, client: ApiClient, caplog: pytest.LogCaptureFixture
) -> None:
    server.on("GET", PODS, failure(403, "Forbidden", "no right to list pods"))
    async with running(Reflector(client, PODS, Store("pods"), timing=QUICK)):
        await until(lambda: len(server.received) >= 4)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "no right to list pods" in warnings[0].getMessage()


async def test_stale_lists_are_refused_until_the_server_insists(server: ScriptedServer, client: ApiClient) -> None:
    """A list older than the store would bring deleted objects back; only a restored server keeps sending it."""
    server.on("GET", PODS, listing(pod("a", 5), version=9), listing(pod("old", 3), version=4))
    server.on("WATCH", PODS, stream(("ADDED", pod("b", 10)), GONE), stream())
    store = Store("pods")
    async with running(Reflector(client, PODS, store, timing=QUICK)) as changes:
        await until(lambda: len(server.requests("GET")) == 3)
        assert [key.name for key in sorted(store.keys())] == ["a", "b"]
        await until(lambda: store.resource_version == 4)
    assert len(server.requests("GET")) == STALE_LISTS_TOLERATED + 2
    assert changes == ["ADDED a", "ADDED b", "MISSED a", "MISSED b", "ADDED old"]


async def test_refresh_reads_the_present_beside_a_silent_watch(server: ScriptedServer, client: ApiClient) -> None:
    server.on("GET", PODS, listing(pod("a", 1), version=9), listing(pod("b", 12), version=13))
    server.on("WATCH", PODS, stream())
    store = Store("pods")
    reflector = Reflector(client, PODS, store, timing=QUICK)
    async with running(reflector) as changes:
        await store.wait_synced()
        await reflector.refresh()
        assert changes == ["ADDED a", "MISSED a", "ADDED b"]


async def test_the_answer_to_a_write_is_stored_like_its_event(server: ScriptedServer, client: ApiClient) -> None:
    server.on("GET", PODS, listing(version=9))
    server.on("WATCH", PODS, stream())
    store = Store("pods")
    reflector = Reflector(client, PODS, store, transform=lambda obj: {**obj, "seen": True}, timing=QUICK)
    async with running(reflector) as changes:
        await store.wait_synced()
        written = pod("a", 12)
        written["metadata"]["managedFields"] = []
        reflector.observe(written)
    assert store.get("ns", "a") == pod("a", 12, seen=True)
    assert changes == ["ADDED a"]


async def test_the_age_of_the_last_news(server: ScriptedServer, client: ApiClient) -> None:
    server.on("GET", PODS, listing(version=9))
    server.on("WATCH", PODS, stream(bookmark(10)))
    reflector = Reflector(client, PODS, store := Store("pods"), timing=QUICK)
    now = asyncio.get_running_loop().time
    async with running(reflector):
        await until(lambda: store.resource_version == 10)
        moment = now()
        assert reflector.last_news_age_s(moment + 0.1) == pytest.approx(reflector.last_news_age_s(moment) + 0.1)
        assert 0 <= reflector.last_news_age_s(moment) < 60
