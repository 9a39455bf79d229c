from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import aiohttp
import pytest

from scaling_operator.runtime.client import ApiClient
from scaling_operator.runtime.controller import Controller, Reconcile, Result
from scaling_operator.runtime.health import HealthServer
from scaling_operator.runtime.leader import LeaderElector, LeadershipLostError, LeaseTiming
from scaling_operator.runtime.manager import Manager, TaskEndedError
from scaling_operator.runtime.objects import Key, Object, key_of
from scaling_operator.runtime.reflector import Reflector, ReflectorTiming
from scaling_operator.runtime.store import Store
from scaling_operator.runtime.workqueue import WorkQueue
from tests.unit.scaling_operator.runtime.leases import NAME, Leases
from tests.unit.scaling_operator.runtime.scripted_server import (
    ScriptedServer,
    failure,
    listing,
    pod,
    stream,
    until,
)

PODS = "/api/v1/pods"
LEASE = LeaseTiming(lease_s=60, renew_deadline_s=40, retry_s=0.1)
QUICK = ReflectorTiming(silence_s=60, backoff_base_s=0.02, backoff_max_s=0.1)
# How long what has to happen may take on a loaded machine.
LIMIT_S = 60


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.on("GET", PODS, listing(pod("a", 1), version=9))
        server.on("WATCH", PODS, stream(("ADDED", pod("b", 10))))
        yield server


def contending(leases: Leases) -> LeaderElector:
    return LeaderElector(leases.client("ours"), namespace="ns", name=NAME, timing=LEASE)


class Operator:
    """A manager with one reflector and one controller that notes the keys it is given."""

    def __init__(
        self,
        client: ApiClient,
        *,
        elector: LeaderElector | None = None,
        reconcile: Reconcile | None = None,
        shutdown_grace_s: float = 60,
    ) -> None:
        self.client = client
        self.reconciled: list[str] = []
        self.health = HealthServer(host="127.0.0.1", port=0)
        self.manager = Manager(health=self.health, elector=elector, shutdown_grace_s=shutdown_grace_s)
        self.store = Store("pods")
        self.queue: WorkQueue[Key] = WorkQueue("pods")
        self.store.add_handler(lambda change, old, new: self.queue.add(key_of(new or old or {})))
        self.manager.add_reflector(Reflector(client, PODS, self.store, timing=QUICK))
        self.manager.add_controller(Controller("pods", reconcile or self.note, self.queue))

    async def note(self, key: Key) -> Result:
        self.reconciled.append(key.name)
        return Result()

    def start(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.manager.run())

    async def ready(self) -> tuple[int, str]:
        return await self.fetch("/readyz")

    async def fetch(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.health.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.text()


@contextlib.asynccontextmanager
async def operator(server: ScriptedServer, **options: object) -> AsyncIterator[Operator]:
    async with ApiClient(server.connection(), request_timeout_s=30.0) as client:
        yield Operator(client, **options)  # type: ignore[arg-type]


async def test_reconciles_what_is_there_and_what_comes_until_stopped(server: ScriptedServer) -> None:
    async with operator(server) as op:
        task = op.start()
        await until(lambda: sorted(op.reconciled) == ["a", "b"])
        assert op.manager.is_leading
        op.manager.stop()
        await asyncio.wait_for(task, LIMIT_S)
        assert not op.manager.is_leading


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_gracefully(server: ScriptedServer, number: signal.Signals) -> None:
    finished = []

    async def reconcile(key: Key) -> Result:
        await asyncio.sleep(0.2)
        finished.append(key.name)
        return Result()

    async with operator(server, reconcile=reconcile) as op:
        task = op.start()
        await until(lambda: op.queue.longest_work_s() > 0)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(task, LIMIT_S)
    assert finished, "a reconcile in progress ends by itself"


async def test_a_reconcile_that_does_not_end_is_cut_off(server: ScriptedServer) -> None:
    async def reconcile(key: Key) -> Result:
        await asyncio.sleep(100)
        return Result()

    async with operator(server, reconcile=reconcile, shutdown_grace_s=0.1) as op:
        task = op.start()
        await until(lambda: op.queue.longest_work_s() > 0)
        op.manager.stop()
        await asyncio.wait_for(task, LIMIT_S)


async def test_not_ready_and_idle_until_the_caches_are_filled(server: ScriptedServer) -> None:
    server.on("GET", PODS, failure(403, "Forbidden"))
    async with operator(server) as op:
        op.queue.add(Key("ns", "early"))
        task = op.start()
        await asyncio.wait_for(op.health.started.wait(), LIMIT_S)
        assert await op.ready() == (503, "caches: not yet listed: pods\n")
        await asyncio.sleep(0.1)
        assert op.reconciled == []
        server.on("GET", PODS, listing(version=9))
        await until(lambda: "early" in op.reconciled)
        assert (await op.ready())[0] == 200
        op.manager.stop()
        await asyncio.wait_for(task, LIMIT_S)


async def test_stopping_while_waiting_for_caches(server: ScriptedServer) -> None:
    server.on("GET", PODS, failure(403, "Forbidden"))
    async with operator(server) as op:
        task = op.start()
        await asyncio.wait_for(op.health.started.wait(), LIMIT_S)
        op.manager.stop()
        await asyncio.wait_for(task, LIMIT_S)


@pytest.mark.parametrize("leader_only", [False, True])
@pytest.mark.parametrize("dies", [pytest.param(True, id="raising"), pytest.param(False, id="returning")])
async def test_a_dead_task_ends_the_process(server: ScriptedServer, leader_only: bool, dies: bool) -> None:
    async def work() -> None:
        if dies:
            raise ValueError("bug")

    async with operator(server) as op:
        op.manager.add_task("fragile", work, leader_only=leader_only)
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(op.manager.run(), LIMIT_S)
    assert caught.group_contains(ValueError if dies else TaskEndedError)


async def test_a_dead_watcher_ends_the_process(server: ScriptedServer) -> None:
    def transform(obj: Object) -> Object:
        raise ValueError("bug")

    async with operator(server) as op:
        reflector = Reflector(op.client, PODS, Store("others"), transform=transform, timing=QUICK)
        op.manager.add_reflector(reflector)
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(op.manager.run(), LIMIT_S)
    assert caught.group_contains(ValueError)


SERIES = [
    "controller_runtime_active_workers{",
    "controller_runtime_max_concurrent_reconciles{",
    "controller_runtime_reconcile_errors_total{",
    'controller_runtime_reconcile_total{controller="pods",result="success"}',
    "controller_runtime_reconcile_time_seconds_bucket{",
    "event_loop_lag_seconds ",
    "leader_election_master_status{",
    "reflector_last_event_age_seconds{",
    'rest_client_requests_total{code="200",method="GET"}',
    'workqueue_adds_total{name="pods"}',
    'workqueue_depth{name="pods"}',
    "workqueue_longest_running_processor_seconds{",
    "workqueue_queue_duration_seconds_bucket{",
    "workqueue_retries_total{",
    "workqueue_unfinished_work_seconds{",
    "workqueue_work_duration_seconds_bucket{",
]


async def test_metrics_have_the_names_that_dashboards_know(server: ScriptedServer) -> None:
    leases = Leases()
    async with operator(server, elector=contending(leases)) as op:
        task = op.start()
        await until(lambda: len(op.reconciled) == 2)
        _, text = await op.fetch("/metrics")
        op.manager.stop()
        await asyncio.wait_for(task, LIMIT_S)
    assert [series for series in SERIES if f"\n{series}" not in text] == []


async def test_a_name_is_used_once(server: ScriptedServer) -> None:
    async def work() -> None: ...

    async with operator(server) as op:
        op.manager.add_task("x", work)
        with pytest.raises(ValueError, match="named x"):
            op.manager.add_task("x", work, leader_only=True)


async def test_a_standby_keeps_caches_warm_and_works_only_when_leading(server: ScriptedServer) -> None:
    leases = Leases()
    leases.overwrite(holderIdentity="other", leaseDurationSeconds=3600)
    started: list[int] = []
    async with operator(server, elector=contending(leases)) as op:

        async def on_start() -> None:
            started.append(len(server.requests("GET")))

        op.manager.on_started_leading(on_start)
        task = op.start()
        await until(lambda: len(op.store) == 2)
        await asyncio.sleep(0.2)
        assert op.reconciled == []
        assert (await op.ready())[0] == 200, "a standby is ready"
        leases.overwrite(holderIdentity="")
        await until(lambda: sorted(op.reconciled) == ["a", "b"])
        assert started == [2], "caches are listed anew before the first reconcile"
        op.manager.stop()
        await asyncio.wait_for(task, LIMIT_S)
    assert leases.holder == ""


async def test_a_standby_stops_at_once(server: ScriptedServer) -> None:
    leases = Leases()
    leases.overwrite(holderIdentity="other", leaseDurationSeconds=3600)
    async with operator(server, elector=contending(leases)) as op:
        task = op.start()
        await until(lambda: len(op.store) == 2)
        op.manager.stop()
        await asyncio.wait_for(task, LIMIT_S)
    assert leases.holder == "other"


async def test_a_lost_lease_ends_work_and_process(server: ScriptedServer) -> None:
    leases = Leases()
    ended = []

    async def reconcile(key: Key) -> Result:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(key.name)
        return Result()

    async with operator(server, elector=contending(leases), reconcile=reconcile) as op:
        task = op.start()
        await until(lambda: len(op.store) == 2 and op.queue.longest_work_s() > 0)
        leases.overwrite(holderIdentity="usurper")
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(task, LIMIT_S)
    assert caught.group_contains(LeadershipLostError)
    assert sorted(ended) == ["a", "b"]
    assert leases.holder == "usurper"
