from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from scaling_operator.runtime import errors
from scaling_operator.runtime.client import APPLY_PATCH, JSON_PATCH, ApiClient
from scaling_operator.runtime.connection import Connection
from scaling_operator.runtime.objects import resource_path
from tests.unit.scaling_operator.runtime.scripted_server import (
    ScriptedServer,
    answer,
    bookmark,
    drop,
    failure,
    hang,
    listing,
    pod,
    stream,
    until,
)

PODS = "/api/v1/namespaces/ns/pods"
# What is waited out where a server is silent: far longer than one that is not takes to answer, and yet short.
QUIET_S = 3.0


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[ApiClient]:
    async with ApiClient(server.connection(), request_timeout_s=60) as client:
        yield client


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        pytest.param(("v1", "pods", "ns"), "/api/v1/namespaces/ns/pods", id="core collection"),
        pytest.param(("v1", "pods"), "/api/v1/pods", id="cluster-wide"),
        pytest.param(
            ("scaling.dev/v1alpha1", "scalingjobs", "ns", "mnist", "status"),
            "/apis/scaling.dev/v1alpha1/namespaces/ns/scalingjobs/mnist/status",
            id="subresource of a group",
        ),
    ],
)
def test_resource_paths(arguments: tuple[str, ...], path: str) -> None:
    assert resource_path(*arguments) == path


async def test_a_list_follows_continue_tokens(server: ScriptedServer, client: ApiClient) -> None:
    server.on("GET", PODS, listing(pod("a", 1), version=9, token="more"), listing(pod("b", 2), version=9))
    result = await client.list(PODS, label_selector="app=x", limit=1)
    assert [obj["metadata"]["name"] for obj in result.items] == ["a", "b"]
    assert result.resource_version == "9"
    first, second = server.received
    assert first.query == {"labelSelector": "app=x", "limit": "1"}
    assert second.query == {"labelSelector": "app=x", "limit": "1", "continue": "more"}


async def test_a_probe_reads_one_object_at_most(server: ScriptedServer, client: ApiClient) -> None:
    server.on("GET", PODS, listing(pod("a", 1), version=9, token="more"), failure(404, "NotFound"))
    await client.probe(PODS)
    with pytest.raises(errors.NotFoundError):
        await client.probe(PODS)
    assert [request.query for request in server.received] == [{"limit": "1"}] * 2


async def test_metadata_only_asks_for_partial_objects(server: ScriptedServer, client: ApiClient) -> None:
    server.on("GET", PODS, listing(version=1))
    server.on("WATCH", PODS, stream(end="close"))
    await client.list(PODS, metadata_only=True)
    async for _ in client.watch(PODS, resource_version="1", timeout_s=1, metadata_only=True):
        pass
    listed, watched = (request.headers["Accept"] for request in server.received)
    assert ";as=PartialObjectMetadataList;" in listed
    assert ";as=PartialObjectMetadata;" in watched


async def test_delete_sends_preconditions_and_policy(server: ScriptedServer, client: ApiClient) -> None:
    server.on("DELETE", f"{PODS}/a", answer(pod("a", 3)))
    await client.delete(f"{PODS}/a", grace_period_s=0, uid="u-1", resource_version="7", propagation="Background")
    assert server.received[0].body == {
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": "u-1", "resourceVersion": "7"},
        "propagationPolicy": "Background",
    }


async def test_apply_carries_content_type_and_parameters(server: ScriptedServer, client: ApiClient) -> None:
    server.on("PATCH", f"{PODS}/a", answer(pod("a", 3)))
    await client.patch(f"{PODS}/a", {}, content_type=APPLY_PATCH, params={"fieldManager": "m"})
    assert server.received[0].headers["Content-Type"] == APPLY_PATCH
    assert server.received[0].query == {"fieldManager": "m"}


async def test_a_refused_create_names_the_reason(server: ScriptedServer, client: ApiClient) -> None:
    server.on("POST", PODS, failure(409, "AlreadyExists", 'pods "a" already exists'))
    with pytest.raises(errors.AlreadyExistsError, match="already exists"):
        await client.create(PODS, pod("a", 0))


class TestRetries:
    async def test_a_read_survives_a_dropped_connection_and_a_500(
        self, server: ScriptedServer, client: ApiClient
    ) -> None:
        server.on("GET", f"{PODS}/a", drop(), failure(500, "InternalError"), answer(pod("a", 1)))
        assert await client.get(f"{PODS}/a") == pod("a", 1)

    async def test_an_overloaded_server_is_asked_again_when_it_says(
        self, server: ScriptedServer, client: ApiClient
    ) -> None:
        server.on("POST", PODS, failure(429, "TooManyRequests", retry_after_s=1), answer(pod("a", 1)))
        await client.create(PODS, {})
        first, second = server.received
        assert 1.0 <= second.at - first.at < 60.0

    async def test_a_long_retry_after_is_left_to_the_caller(self, server: ScriptedServer, client: ApiClient) -> None:
        server.on("GET", PODS, failure(429, "TooManyRequests", retry_after_s=60))
        with pytest.raises(errors.TooManyRequestsError) as caught:
            await client.list(PODS)
        assert caught.value.retry_after_s == 60
        assert len(server.received) == 1

    @pytest.mark.parametrize("fault", [pytest.param(drop(), id="drop"), pytest.param(failure(500, "x"), id="500")])
    async def test_a_create_of_unknown_outcome_is_not_repeated(
        self, server: ScriptedServer, client: ApiClient, fault: object
    ) -> None:
        server.on("POST", PODS, fault)  # type: ignore[arg-type]
        with pytest.raises(errors.ServerUnavailableError):
            await client.create(PODS, {})
        assert len(server.received) == 1

    async def test_a_json_patch_is_not_repeated(self, server: ScriptedServer, client: ApiClient) -> None:
        server.on("PATCH", PODS, failure(500, "InternalError"))
        with pytest.raises(errors.ServerUnavailableError):
            await client.patch(PODS, [], content_type=JSON_PATCH)
        assert len(server.received) == 1

    async def test_retries_end(self, server: ScriptedServer, client: ApiClient) -> None:
        server.on("GET", PODS, failure(500, "InternalError"))
        with pytest.raises(errors.ServerUnavailableError):
            await client.list(PODS)
        assert len(server.received) == 4

    async def test_a_hung_server_ends_in_a_timeout(self, server: ScriptedServer) -> None:
        server.on("GET", PODS, hang())
        async with ApiClient(server.connection(), request_timeout_s=QUIET_S) as client:
            with pytest.raises(errors.ServerUnavailableError, match="timed out"):
                await client.list(PODS)
        assert len(server.received) == 1

    async def test_nobody_listening(self) -> None:
        async with ApiClient(Connection("http://127.0.0.1:1")) as client:
            with pytest.raises(errors.ServerUnavailableError):
                await client.create(PODS, {})


class _RotatingToken(Connection):
    refreshed = 0

    async def refresh(self, *, rejected: bool = False) -> None:
        if rejected:
            self.refreshed += 1
            self.authorization = f"Bearer new-{self.refreshed}"


async def test_a_refused_credential_is_renewed_once(server: ScriptedServer) -> None:
    server.on("POST", PODS, failure(401, "Unauthorized"), answer({}))
    async with ApiClient(_RotatingToken(server.connection().server, authorization="Bearer old")) as client:
        await client.create(PODS, {})
        assert [r.headers["Authorization"] for r in server.received] == ["Bearer old", "Bearer new-1"]
        server.on("POST", PODS, failure(401, "Unauthorized"))
        with pytest.raises(errors.UnauthorizedError):
            await client.create(PODS, {})
    assert len(server.received) == 4


async def test_a_guard_stops_writes_and_lets_reads_pass(server: ScriptedServer, client: ApiClient) -> None:
    class NotLeadingError(Exception):
        pass

    def refuse() -> None:
        raise NotLeadingError

    server.on("GET", f"{PODS}/a", answer(pod("a", 1)))
    guarded = client.guarded(refuse)
    await guarded.get(f"{PODS}/a")
    with pytest.raises(NotLeadingError):
        await guarded.create(PODS, {})
    with pytest.raises(NotLeadingError):
        await guarded.delete(f"{PODS}/a")
    assert [request.method for request in server.received] == ["GET"]


async def test_separate_clients_do_not_share_connections(server: ScriptedServer) -> None:
    server.on("GET", PODS, hang())
    server.on("GET", f"{PODS}/a", answer(pod("a", 1)))
    async with ApiClient(server.connection(), max_connections=1) as client:
        stuck = asyncio.create_task(client.list(PODS))
        await until(lambda: len(server.received) == 1)
        separate = client.separate(request_timeout_s=60)
        assert await separate.get(f"{PODS}/a") == pod("a", 1)
        stuck.cancel()
        await asyncio.wait({stuck})


class TestWatch:
    async def watch(self, client: ApiClient, silence_s: float = 60.0) -> list[tuple[str, str]]:
        seen: list[tuple[str, str]] = []
        self.seen = seen
        async for kind, obj in client.watch(PODS, resource_version="5", timeout_s=10, silence_s=silence_s):
            seen.append((kind, obj["metadata"]["resourceVersion"]))
        return seen

    async def test_events_until_the_server_ends_it(self, server: ScriptedServer, client: ApiClient) -> None:
        server.on("WATCH", PODS, stream(("ADDED", pod("a", 6)), bookmark(8), end="close"))
        assert await self.watch(client) == [("ADDED", "6"), ("BOOKMARK", "8")]
        query = server.received[0].query
        assert query["resourceVersion"] == "5"
        assert query["allowWatchBookmarks"] == "true"
        assert query["timeoutSeconds"] == "10"

    async def test_an_event_larger_than_any_buffer(self, server: ScriptedServer, client: ApiClient) -> None:
        big = pod("a", 6, data="x" * 3_000_000)
        server.on("WATCH", PODS, stream(("ADDED", big), ("ADDED", pod("b", 7)), end="close"))
        assert await self.watch(client) == [("ADDED", "6"), ("ADDED", "7")]

    async def test_silence_is_an_error(self, server: ScriptedServer, client: ApiClient) -> None:
        server.on("WATCH", PODS, stream(("ADDED", pod("a", 6)), end="hang"))
        with pytest.raises(errors.ServerUnavailableError, match="timed out"):
            await self.watch(client, silence_s=QUIET_S)
        assert self.seen == [("ADDED", "6")]

    async def test_a_dropped_connection_is_an_error(self, server: ScriptedServer, client: ApiClient) -> None:
        server.on("WATCH", PODS, stream(("ADDED", pod("a", 6)), end="drop"))
        with pytest.raises(errors.ServerUnavailableError):
            await self.watch(client)

    async def test_expiry_inside_the_stream(self, server: ScriptedServer, client: ApiClient) -> None:
        gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
        server.on("WATCH", PODS, stream(("ERROR", gone)))
        with pytest.raises(errors.ExpiredError, match="too old"):
            await self.watch(client)

    async def test_expiry_as_status(self, server: ScriptedServer, client: ApiClient) -> None:
        server.on("WATCH", PODS, failure(410, "Expired"))
        with pytest.raises(errors.ExpiredError):
            await self.watch(client)

    async def test_a_line_cut_off_is_an_error(self, server: ScriptedServer, client: ApiClient) -> None:
        server.on("WATCH", PODS, stream(raw=b'{"type":"ADD\n', end="close"))
        with pytest.raises(errors.ServerUnavailableError, match="broken"):
            await self.watch(client)
