"""All times are real but short; what is asserted is order and safety, with wide margins for slow machines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY

from scaling_operator.runtime.client import ApiClient
from scaling_operator.runtime.leader import LeaderElector, LeadershipLostError, LeaseTiming
from tests.unit.scaling_operator.runtime.lease_server import COLLECTION, Fault, LeaseServer
from tests.unit.scaling_operator.runtime.scripted_server import until

TIMING = LeaseTiming(lease_s=2.5, renew_deadline_s=1.5, retry_s=0.1)


@pytest.fixture
async def server() -> AsyncIterator[LeaseServer]:
    async with LeaseServer() as server:
        yield server


@pytest.fixture
async def clients(server: LeaseServer) -> AsyncIterator[Callable[[str], ApiClient]]:
    async with contextlib.AsyncExitStack() as stack:
        opened: dict[str, ApiClient] = {}

        def client(name: str) -> ApiClient:
            if name not in opened:
                opened[name] = ApiClient(server.connection(), qps=None, request_timeout_s=30, user_agent=name)
                stack.push_async_callback(opened[name].close)
            return opened[name]

        yield client


class Contender:
    """An elector whose work notes when it ran, until `finish`."""

    def __init__(self, name: str, client: ApiClient, **options: Any) -> None:
        self.stuck: list[float] = []
        self.elector = LeaderElector(
            client,
            namespace="ns",
            name="operator",
            identity=name,
            timing=TIMING,
            on_stuck=lambda: self.stuck.append(time.monotonic()),
            **options,
        )
        self.began = asyncio.Event()
        self.finish = asyncio.Event()
        self.intervals: list[tuple[float, float]] = []
        self.task = asyncio.create_task(self.elector.run(self.work))

    async def work(self) -> None:
        started = time.monotonic()
        self.began.set()
        try:
            await self.finish.wait()
        finally:
            self.intervals.append((started, time.monotonic()))

    async def lost(self) -> LeadershipLostError:
        await asyncio.wait({self.task}, timeout=10)
        error = self.task.exception()
        assert isinstance(error, LeadershipLostError)
        return error

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


def status(contender: Contender) -> tuple[bool, float | None]:
    """Whether it leads, by its own word and by the metric."""
    gauge = REGISTRY.get_sample_value("leader_election_master_status", {"name": "operator"})
    return contender.elector.is_leading, gauge


async def test_a_free_lease_is_taken_renewed_and_given_back(
    server: LeaseServer, clients: Callable[[str], ApiClient]
) -> None:
    a = Contender("a", clients("a"))
    await asyncio.wait_for(a.began.wait(), 20)
    assert server.holder == "a"
    assert status(a) == (True, 1)
    await asyncio.sleep(3.5)
    assert not a.task.done(), "renewals must carry the lease past its duration"
    a.finish.set()
    await a.task
    assert server.holder == ""
    assert status(a) == (False, 0)


@pytest.mark.parametrize("fault", ["hang", "drop", "fail"])
async def test_work_ends_before_the_lease_does_when_the_server_fails(
    server: LeaseServer, clients: Callable[[str], ApiClient], fault: Fault
) -> None:
    a = Contender("a", clients("a"))
    await asyncio.wait_for(a.began.wait(), 20)
    await asyncio.sleep(0.3)
    server.faults["a"] = fault
    await a.lost()
    last_write, _ = server.writes[-1]
    ((_, ended),) = a.intervals
    assert ended < last_write + TIMING.lease_s
    assert not a.stuck


@pytest.mark.parametrize("fault", ["hang", "drop"])
async def test_two_never_work_at_once(server: LeaseServer, clients: Callable[[str], ApiClient], fault: Fault) -> None:
    a = Contender("a", clients("a"))
    await asyncio.wait_for(a.began.wait(), 20)
    b = Contender("b", clients("b"))
    await asyncio.sleep(0.3)
    server.faults["a"] = fault
    await a.lost()
    await asyncio.wait_for(b.began.wait(), 20)
    b.finish.set()
    await b.task
    (_, a_ended), (b_started, _) = a.intervals[0], b.intervals[0]
    assert a_ended < b_started


async def test_a_held_lease_is_waited_out_by_the_own_clock_alone(
    server: LeaseServer, clients: Callable[[str], ApiClient]
) -> None:
    server.overwrite(holderIdentity="gone", leaseDurationSeconds=1, renewTime="1999-01-01T00:00:00.000000Z")
    started = time.monotonic()
    a = Contender("a", clients("a"))
    await asyncio.wait_for(a.began.wait(), 20)
    assert time.monotonic() - started >= 1.0
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 1
    await a.end()


async def test_a_lease_that_changes_is_not_taken(server: LeaseServer, clients: Callable[[str], ApiClient]) -> None:
    server.overwrite(holderIdentity="other", leaseDurationSeconds=1)
    a = Contender("a", clients("a"))
    for index in range(15):
        await asyncio.sleep(0.1)
        server.overwrite(renewTime=str(index))
    assert not a.began.is_set()
    await a.end()


async def test_a_lease_given_back_is_taken_at_once(server: LeaseServer, clients: Callable[[str], ApiClient]) -> None:
    a = Contender("a", clients("a"))
    await asyncio.wait_for(a.began.wait(), 20)
    b = Contender("b", clients("b"))
    await asyncio.sleep(0.3)
    a.finish.set()
    await a.task
    ended = time.monotonic()
    await asyncio.wait_for(b.began.wait(), 20)
    assert b.elector.is_leading
    assert time.monotonic() - ended < TIMING.lease_s / 2
    await b.end()
    assert server.holder == ""


async def test_work_ends_when_somebody_else_stands_in_the_lease(
    server: LeaseServer, clients: Callable[[str], ApiClient]
) -> None:
    a = Contender("a", clients("a"))
    await asyncio.wait_for(a.began.wait(), 20)
    server.overwrite(holderIdentity="usurper")
    error = await a.lost()
    assert "usurper" in str(error)
    assert server.holder == "usurper", "a lease that is not ours is not given back"


async def test_a_renewal_whose_answer_got_lost_counts(server: LeaseServer, clients: Callable[[str], ApiClient]) -> None:
    a = Contender("a", clients("a"))
    await asyncio.wait_for(a.began.wait(), 20)
    server.faults["a"] = "answer lost"
    await asyncio.sleep(2.8)
    assert "a" not in server.faults
    assert not a.task.done()
    await a.end()


async def test_an_acquisition_whose_answer_got_lost_is_found_again(
    server: LeaseServer, clients: Callable[[str], ApiClient]
) -> None:
    server.faults["a"] = "answer lost"
    a = Contender("a", clients("a"))
    await asyncio.wait_for(a.began.wait(), 0.9 * TIMING.lease_s)
    await a.end()


async def test_a_lease_deleted_by_somebody_is_made_again(
    server: LeaseServer, clients: Callable[[str], ApiClient]
) -> None:
    a = Contender("a", clients("a"))
    await asyncio.wait_for(a.began.wait(), 20)
    server.lease = None
    await until(lambda: server.lease is not None)
    assert server.holder == "a"
    assert not a.task.done()
    await a.end()


async def test_work_that_ignores_its_end_takes_the_process_down(
    server: LeaseServer, clients: Callable[[str], ApiClient]
) -> None:
    a = Contender("a", clients("a"))
    release = asyncio.Event()

    async def stubborn() -> None:
        a.began.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    await a.end()
    elector = LeaderElector(
        clients("a"),
        namespace="ns",
        name="operator",
        identity="a",
        timing=TIMING,
        on_stuck=lambda: a.stuck.append(time.monotonic()),
    )
    task = asyncio.create_task(elector.run(stubborn))
    await asyncio.wait_for(a.began.wait(), 20)
    server.faults["a"] = "hang"
    with pytest.raises(LeadershipLostError):
        await asyncio.wait_for(task, 10)
    assert len(a.stuck) == 1
    release.set()
    await asyncio.sleep(0)


async def test_a_process_that_was_frozen_cannot_write(server: LeaseServer, clients: Callable[[str], ApiClient]) -> None:
    refused: list[LeadershipLostError] = []

    async def work() -> None:
        client = clients("writer").guarded(elector.check)
        # The whole loop stands still, as after SIGSTOP: no timer runs before the write is tried.
        time.sleep(1.2 * TIMING.lease_s)  # noqa: ASYNC251
        try:
            await client.replace(f"{COLLECTION}/operator", {})
        except LeadershipLostError as exc:
            refused.append(exc)
            raise

    elector = LeaderElector(clients("a"), namespace="ns", name="operator", timing=TIMING)
    with pytest.raises(LeadershipLostError):
        await elector.run(work)
    assert len(refused) == 1
    assert all(client != "writer" for _, client in server.writes)


async def test_an_exception_of_the_work_passes_and_the_lease_is_given_back(
    server: LeaseServer, clients: Callable[[str], ApiClient]
) -> None:
    async def work() -> None:
        raise ValueError("bug")

    elector = LeaderElector(clients("a"), namespace="ns", name="operator", timing=TIMING)
    with pytest.raises(ValueError, match="bug"):
        await elector.run(work)
    assert server.holder == ""


async def test_cancellation_ends_the_work_and_gives_the_lease_back(
    server: LeaseServer, clients: Callable[[str], ApiClient]
) -> None:
    a = Contender("a", clients("a"))
    await asyncio.wait_for(a.began.wait(), 20)
    await a.end()
    assert len(a.intervals) == 1
    assert server.holder == ""


@pytest.mark.parametrize(
    "times",
    [
        pytest.param((10, 10, 2), id="deadline not before expiry"),
        pytest.param((15, 2, 2), id="no time for a retry"),
        pytest.param((15, 10, 0), id="no pause"),
    ],
)
def test_impossible_times_are_refused(times: tuple[float, float, float]) -> None:
    lease_s, renew_deadline_s, retry_s = times
    with pytest.raises(ValueError, match="must be longer"):
        LeaseTiming(lease_s=lease_s, renew_deadline_s=renew_deadline_s, retry_s=retry_s)
