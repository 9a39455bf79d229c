"""The controller runtime against a real API server that is restarted, compacted, hung and cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from scaling_operator.runtime.client import APPLY_PATCH, ApiClient, resource_path
from scaling_operator.runtime.connection import Connection, KubeconfigConnection
from scaling_operator.runtime.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidError,
    NotFoundError,
)
from scaling_operator.runtime.objects import Object, key_of, version_of
from scaling_operator.runtime.reflector import Reflector, ReflectorTiming
from scaling_operator.runtime.store import Store
from tests.cluster.kube.access import Access
from tests.cluster.kube.client import Client, wait_until
from tests.cluster.kube.cluster import Cluster
from tests.cluster.leader_process import TIMING

QUICK = ReflectorTiming(backoff_base_s=0.1, backoff_max_s=1.0)
# How long a process may take to end on a loaded machine.
LIMIT_S = 120


class Wire:
    """A TCP connection to the API server that can be cut: what is open breaks, what comes is refused."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._served: set[asyncio.Task[None]] = set()
        self._cut = False
        self.port = 0

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        self.cut()
        while self._served:
            await asyncio.wait(self._served)

    def cut(self) -> None:
        self._cut = True
        for task in self._served:
            task.cancel()

    def mend(self) -> None:
        self._cut = False

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._served.add(task)
        task.add_done_callback(self._served.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.ExitStack() as ends:
            ends.callback(writer.transport.abort)
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            ends.callback(far_writer.transport.abort)
            # The end of either direction is the end of both.
            pumps = {
                asyncio.create_task(_pump(reader, far_writer)),
                asyncio.create_task(_pump(far_reader, writer)),
            }
            ends.callback(lambda: [pump.cancel() for pump in pumps])
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def reflecting(reflector: Reflector) -> AsyncIterator[list[str]]:
    """Run the reflector; yields the changes that its store reports."""
    changes: list[str] = []

    def note(change: str, old: Object | None, new: Object | None) -> None:
        changes.append(f"{change} {key_of(new or old or {}).name}")

    reflector.store.add_handler(note)
    task = asyncio.create_task(reflector.run())
    try:
        await asyncio.wait_for(reflector.store.wait_synced(), 60)
        yield changes
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # nothing announces what the server is about to send
            await asyncio.sleep(0.02)


def config_map(name: str, **data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"test": "yes"}},
        "data": data,
    }


def own_cluster(cluster: Access) -> Cluster:
    if cluster.own is None:
        pytest.skip("only a cluster of tests.cluster.kube may be disturbed")
    return cluster.own


def compact(cluster: Cluster, version: int) -> None:
    """Make etcd forget everything before `version`."""
    body = json.dumps({"revision": str(version), "physical": True})
    code = (
        "import urllib.request as u; "
        f"u.urlopen('http://127.0.0.1:2379/v3/kv/compaction', data={body!r}.encode(), timeout=60).read()"
    )
    namespace = f"--net=/proc/{cluster.namespaces.pid}/ns/net"
    subprocess.run(["nsenter", namespace, sys.executable, "-c", code], check=True, timeout=120)


def restart_api_server(cluster: Cluster, client: Client) -> None:
    cluster.stop("apiserver", at_once=True)
    cluster.start("apiserver")

    def answers() -> bool:
        try:
            return client.raw("/readyz") == "ok"
        except Exception:  # refused, reset, not ready: all mean not yet
            return False

    wait_until(answers, timeout_s=60)


async def test_verbs_and_their_refusals(cluster: Access, namespace: str) -> None:
    maps = resource_path("v1", "configmaps", namespace)
    async with await ApiClient.load(str(cluster.kubeconfig)) as api:
        created = await api.create(maps, config_map("a", x="1"))
        with pytest.raises(AlreadyExistsError):
            await api.create(maps, config_map("a"))
        with pytest.raises(InvalidError, match=r"metadata.name"):
            await api.create(maps, config_map("Not A Name"))
        patched = await api.patch(f"{maps}/a", {"data": {"y": "2"}})
        assert patched["data"] == {"x": "1", "y": "2"}
        with pytest.raises(ConflictError):
            await api.replace(f"{maps}/a", created | {"data": {}})
        applied = await api.patch(
            f"{maps}/b", config_map("b", z="3"), content_type=APPLY_PATCH, params={"fieldManager": "test"}
        )
        assert version_of(applied) > version_of(patched)
        short = await api.create(maps, config_map("c", w="4"), metadata_only=True)
        assert key_of(short).name == "c"
        assert "data" not in short
        await api.delete(f"{maps}/c")
        listed = await api.list(maps, label_selector="test=yes", limit=1)
        assert [key_of(obj).name for obj in listed.items] == ["a", "b"]
        partial = await api.list(maps, label_selector="test=yes", metadata_only=True)
        assert all("data" not in obj for obj in partial.items)
        with pytest.raises(ConflictError):
            await api.delete(f"{maps}/a", uid="another")
        with pytest.raises(ConflictError):
            await api.delete(f"{maps}/a", resource_version=created["metadata"]["resourceVersion"])
        await api.delete(f"{maps}/a", uid=created["metadata"]["uid"], propagation="Background")
        with pytest.raises(NotFoundError):
            await api.get(f"{maps}/a")


async def test_a_reflector_sees_changes_and_only_those_selected(cluster: Access, namespace: str) -> None:
    maps = resource_path("v1", "configmaps", namespace)
    async with await ApiClient.load(str(cluster.kubeconfig)) as api:
        for index in range(5):
            await api.create(maps, config_map(f"m{index}"))
        store = Store("maps")
        reflector = Reflector(api, maps, store, label_selector="test=yes", page_size=2, timing=QUICK)
        async with reflecting(reflector) as changes:
            assert changes == [f"ADDED m{index}" for index in range(5)]
            changed = await api.patch(f"{maps}/m1", {"data": {"x": "1"}})
            assert await store.wait_for_version(version_of(changed), 60)
            # Leaving the selection is a deletion as far as this cache is concerned.
            await api.patch(f"{maps}/m2", {"metadata": {"labels": {"test": None}}})
            await api.delete(f"{maps}/m3")
            await until(lambda: len(store) == 3)
            assert changes[5:] == ["MODIFIED m1", "DELETED m2", "DELETED m3"]
            held = store.get(namespace, "m1")
            assert held is not None
            assert (held["apiVersion"], held["kind"]) == ("v1", "ConfigMap")
            assert "managedFields" not in held["metadata"]


async def test_a_reflector_whose_version_was_compacted_learns_of_deletions(
    cluster: Access, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    own = own_cluster(cluster)
    maps = resource_path("v1", "configmaps", namespace)
    direct = await KubeconfigConnection.load(str(cluster.kubeconfig))
    address = urlsplit(direct.server)
    async with (
        Wire(str(address.hostname), address.port or 443) as wire,
        ApiClient(Connection(f"https://127.0.0.1:{wire.port}", ssl_context=direct.ssl_context)) as watched,
        ApiClient(direct) as api,
    ):
        await api.create(maps, config_map("goes"))
        await api.create(maps, config_map("stays"))
        store = Store("maps")
        reflector = Reflector(watched, maps, store, label_selector="test=yes", timing=QUICK)
        async with reflecting(reflector) as changes:
            wire.cut()
            await api.delete(f"{maps}/goes")
            last = await api.create(maps, config_map("comes"))
            await asyncio.to_thread(compact, own, version_of(last))
            # A fresh API server has no memory of its own of what etcd has forgotten.
            await asyncio.to_thread(restart_api_server, own, cluster.client)
            wire.mend()
            await until(lambda: "ADDED comes" in changes, 120)
            assert changes == ["ADDED goes", "ADDED stays", "MISSED goes", "ADDED comes"]
            assert any("too old resource version" in record.getMessage() for record in caplog.records)
            changed = await api.patch(f"{maps}/stays", {"data": {"x": "1"}})
            assert await store.wait_for_version(version_of(changed), 60), "it watches on after the list"


async def test_a_reflector_survives_the_restart_of_the_api_server(cluster: Access, namespace: str) -> None:
    own = own_cluster(cluster)
    maps = resource_path("v1", "configmaps", namespace)
    async with await ApiClient.load(str(cluster.kubeconfig)) as api:
        await api.create(maps, config_map("before"))
        store = Store("maps")
        reflector = Reflector(api, maps, store, label_selector="test=yes", timing=QUICK)
        async with reflecting(reflector) as changes:
            await asyncio.to_thread(restart_api_server, own, cluster.client)
            await api.create(maps, config_map("after"))
            await until(lambda: "ADDED after" in changes, 120)
            assert changes == ["ADDED before", "ADDED after"]


class Contender:
    """A leader_process and what it has reported."""

    def __init__(self, kubeconfig: Path, namespace: str, identity: str, folder: Path) -> None:
        self.identity = identity
        self._output = folder / f"{identity}.jsonl"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.leader_process", str(kubeconfig), namespace, identity],
                stdout=output,
            )

    def reports(self, event: str) -> list[float]:
        """When `event` was reported, in seconds of the machine-wide monotonic clock."""
        return [row["at"] for row in self._rows() if row["event"] == event]

    def await_report(self, event: str) -> float:
        """The time of the last report of `event`, once there is one."""
        return wait_until(lambda: self.reports(event), interval_s=0.05)[-1]

    def freeze(self) -> None:
        """Freeze it between two writes: one that it has begun is not stopped by any lease, only delayed."""

        def frozen_between_writes() -> bool:
            self.process.send_signal(signal.SIGSTOP)
            wait_until(self._is_stopped, interval_s=0.005)
            if self._rows()[-1]["event"] == "wrote":
                return True
            self.process.send_signal(signal.SIGCONT)
            return False

        wait_until(frozen_between_writes, interval_s=0.03)

    def _rows(self) -> list[dict[str, Any]]:
        whole_lines = self._output.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole_lines.splitlines()]

    def _is_stopped(self) -> bool:
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"


@pytest.fixture
def contender(cluster: Access, namespace: str, tmp_path: Path) -> Iterator[Callable[[str], Contender]]:
    cluster.client.create(config_map("ledger"), namespace)
    started: list[Contender] = []

    def start(identity: str) -> Contender:
        started.append(Contender(cluster.kubeconfig, namespace, identity, tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.process.send_signal(signal.SIGCONT)
        one.process.kill()
        one.process.wait()


def test_a_leader_that_ends_in_order_is_followed_at_once(contender: Callable[[str], Contender]) -> None:
    a = contender("a")
    a.await_report("wrote")
    b = contender("b")
    b.await_report("contending")
    time.sleep(1.5)
    assert not b.reports("leading")
    a.process.terminate()
    assert a.process.wait(LIMIT_S) == 0
    ended = a.reports("ended")[0]
    began = b.await_report("leading")
    assert ended < began < ended + 0.75 * TIMING.lease_s
    b.process.terminate()
    assert b.process.wait(LIMIT_S) == 0


def test_a_frozen_leader_writes_nothing_when_it_wakes_up(
    contender: Callable[[str], Contender], client: Client, namespace: str
) -> None:
    a = contender("a")
    a.await_report("wrote")
    a.freeze()
    b = contender("b")
    b.await_report("wrote")
    b.process.send_signal(signal.SIGTERM)
    assert b.process.wait(LIMIT_S) == 0
    before = client.get("configmaps", "ledger", namespace)
    a.process.send_signal(signal.SIGCONT)
    assert a.process.wait(LIMIT_S) == 3
    after = client.get("configmaps", "ledger", namespace)
    assert after["data"] == {"writer": "b"}
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_two_never_lead_at_once_while_the_api_server_hangs(
    cluster: Access, contender: Callable[[str], Contender]
) -> None:
    own = own_cluster(cluster)
    a = contender("a")
    a.await_report("wrote")
    b = contender("b")
    b.await_report("contending")
    time.sleep(1.0)
    own.namespaces.signal("apiserver", signal.SIGSTOP)
    try:
        assert a.process.wait(LIMIT_S) == 3
    finally:
        own.namespaces.signal("apiserver", signal.SIGCONT)
    assert b.await_report("leading") > a.reports("ended")[-1]
