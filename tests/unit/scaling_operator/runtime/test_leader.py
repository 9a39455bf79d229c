"""The times are client-go's and virtual, so that nothing but the elector decides how long anything takes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from prometheus_client import REGISTRY

from scaling_operator.runtime.leader import LeaderElector, LeadershipLostError, LeaseTiming
from tests.unit.scaling_operator.runtime.leases import NAME, Fault, Leases
from tests.unit.scaling_operator.runtime.virtual_time import VirtualTimeLoop, in_virtual_time

TIMING = LeaseTiming()
# Longer than anything that has to happen takes.
LIMIT_S = 4 * TIMING.lease_s


def now() -> float:
    return asyncio.get_running_loop().time()


def elector_of(leases: Leases, name: str, **options: Any) -> LeaderElector:
    return LeaderElector(
        leases.client(name), namespace="ns", name=NAME, identity=name, timing=TIMING, clock=now, **options
    )


class Contender:
    """An elector whose work notes when it ran, until `finish`."""

    def __init__(self, leases: Leases, name: str) -> None:
        self.stuck: list[float] = []
        self.elector = elector_of(leases, name, on_stuck=lambda: self.stuck.append(now()))
        self.finish = asyncio.Event()
        self.intervals: list[tuple[float, float]] = []
        self._began = asyncio.Event()
        self.task = asyncio.create_task(self.elector.run(self.work))

    async def work(self) -> None:
        started = now()
        self._began.set()
        try:
            await self.finish.wait()
        finally:
            self.intervals.append((started, now()))

    @property
    def has_led(self) -> bool:
        return self._began.is_set()

    async def leads(self) -> None:
        await asyncio.wait_for(self._began.wait(), LIMIT_S)

    async def lost(self) -> LeadershipLostError:
        await asyncio.wait({self.task}, timeout=LIMIT_S)
        error = self.task.exception()
        assert isinstance(error, LeadershipLostError)
        return error

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


def status(contender: Contender) -> tuple[bool, float | None]:
    """Whether it leads, by its own word and by the metric."""
    gauge = REGISTRY.get_sample_value("leader_election_master_status", {"name": NAME})
    return contender.elector.is_leading, gauge


@in_virtual_time
async def test_a_free_lease_is_taken_renewed_and_given_back() -> None:
    leases = Leases()
    a = Contender(leases, "a")
    await a.leads()
    assert leases.holder == "a"
    assert status(a) == (True, 1)
    await asyncio.sleep(10 * TIMING.lease_s)
    assert not a.task.done(), "renewals must carry the lease past its duration"
    a.finish.set()
    await a.task
    assert leases.holder == ""
    assert status(a) == (False, 0)


@pytest.mark.parametrize("fault", ["hang", "mute", "fail"])
@in_virtual_time
async def test_work_ends_before_the_lease_does_when_the_server_fails(fault: Fault) -> None:
    leases = Leases()
    a = Contender(leases, "a")
    await a.leads()
    await asyncio.sleep(1.0)
    answered, _ = leases.writes[-1]
    leases.faults["a"] = fault
    await a.lost()
    ((_, ended),) = a.intervals
    assert ended < answered + TIMING.lease_s
    assert not a.stuck


@pytest.mark.parametrize("fault", ["hang", "mute", "fail"])
@in_virtual_time
async def test_two_never_work_at_once(fault: Fault) -> None:
    leases = Leases()
    a = Contender(leases, "a")
    await a.leads()
    b = Contender(leases, "b")
    await asyncio.sleep(1.0)
    leases.faults["a"] = fault
    await a.lost()
    await b.leads()
    b.finish.set()
    await b.task
    (_, a_ended), (b_started, _) = a.intervals[0], b.intervals[0]
    assert a_ended < b_started


@in_virtual_time
async def test_a_held_lease_is_waited_out_by_the_own_clock_alone() -> None:
    leases = Leases()
    leases.overwrite(holderIdentity="gone", leaseDurationSeconds=30, renewTime="1999-01-01T00:00:00.000000Z")
    started = now()
    a = Contender(leases, "a")
    await a.leads()
    assert 30 <= now() - started < 30 + 2 * TIMING.retry_s
    assert leases.lease is not None
    assert leases.lease["spec"]["leaseTransitions"] == 1
    await a.end()


@in_virtual_time
async def test_a_lease_that_changes_is_not_taken() -> None:
    leases = Leases()
    leases.overwrite(holderIdentity="other", leaseDurationSeconds=5)
    a = Contender(leases, "a")
    for index in range(60):
        await asyncio.sleep(1.0)
        leases.overwrite(renewTime=str(index))
    assert not a.has_led
    await a.end()


@in_virtual_time
async def test_a_lease_given_back_is_taken_at_once() -> None:
    leases = Leases()
    a = Contender(leases, "a")
    await a.leads()
    b = Contender(leases, "b")
    await asyncio.sleep(1.0)
    a.finish.set()
    await a.task
    ended = now()
    await b.leads()
    assert b.elector.is_leading
    assert now() - ended < 2 * TIMING.retry_s
    await b.end()
    assert leases.holder == ""


@in_virtual_time
async def test_work_ends_when_somebody_else_stands_in_the_lease() -> None:
    leases = Leases()
    a = Contender(leases, "a")
    await a.leads()
    leases.overwrite(holderIdentity="usurper")
    error = await a.lost()
    assert "usurper" in str(error)
    assert leases.holder == "usurper", "a lease that is not ours is not given back"


@in_virtual_time
async def test_a_renewal_whose_answer_got_lost_counts() -> None:
    leases = Leases()
    a = Contender(leases, "a")
    await a.leads()
    leases.faults["a"] = "answer lost"
    await asyncio.sleep(2 * TIMING.lease_s)
    assert "a" not in leases.faults
    assert not a.task.done()
    await a.end()


@in_virtual_time
async def test_an_acquisition_whose_answer_got_lost_is_found_again() -> None:
    leases = Leases()
    leases.faults["a"] = "answer lost"
    started = now()
    a = Contender(leases, "a")
    await a.leads()
    assert now() - started < 2 * TIMING.retry_s
    await a.end()


@in_virtual_time
async def test_a_lease_deleted_by_somebody_is_made_again() -> None:
    leases = Leases()
    a = Contender(leases, "a")
    await a.leads()
    leases.lease = None
    await asyncio.sleep(2 * TIMING.retry_s)
    assert leases.holder == "a"
    assert not a.task.done()
    await a.end()


@in_virtual_time
async def test_work_that_ignores_its_end_takes_the_process_down() -> None:
    leases = Leases()
    stuck: list[float] = []
    began, release = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        began.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    elector = elector_of(leases, "a", on_stuck=lambda: stuck.append(now()))
    task = asyncio.create_task(elector.run(stubborn))
    await asyncio.wait_for(began.wait(), LIMIT_S)
    taken, _ = leases.writes[-1]
    leases.faults["a"] = "hang"
    with pytest.raises(LeadershipLostError):
        await asyncio.wait_for(task, LIMIT_S)
    assert len(stuck) == 1
    assert stuck[0] <= taken + TIMING.lease_s
    release.set()
    await asyncio.sleep(0)


@in_virtual_time
async def test_a_process_that_was_frozen_may_not_write() -> None:
    leases = Leases()

    async def work() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        elector.check()
        # As after SIGSTOP: no timer runs before the write is tried.
        loop.stand_still(1.2 * TIMING.lease_s)
        elector.check()

    elector = elector_of(leases, "a")
    with pytest.raises(LeadershipLostError, match="nothing may be written"):
        await elector.run(work)
    assert len(leases.writes) == 1, "nor is the lease given back, which may be another's"


@in_virtual_time
async def test_an_exception_of_the_work_passes_and_the_lease_is_given_back() -> None:
    leases = Leases()

    async def work() -> None:
        raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        await elector_of(leases, "a").run(work)
    assert leases.holder == ""


@in_virtual_time
async def test_cancellation_ends_the_work_and_gives_the_lease_back() -> None:
    leases = Leases()
    a = Contender(leases, "a")
    await a.leads()
    await a.end()
    assert len(a.intervals) == 1
    assert leases.holder == ""


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
