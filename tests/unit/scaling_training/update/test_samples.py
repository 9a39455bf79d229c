"""The bound on staleness, and every sample exactly once, whatever workers do."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from scaling_training.update.coordinator import Coordinator
from scaling_training.update.messages import Group
from scaling_training.update.samples import Answer, Lease, SampleLedger, Ticket, Worker
from scaling_training.update.staleness import Histogram, feasible, scaling
from tests.unit.scaling_training.update.virtual import Push, Simulation

SAMPLES, EPOCHS = 50, 3


def a_ledger(*, workers: int = 2, share: int = 8, bound: int = 4) -> SampleLedger:
    ledger = SampleLedger()
    regroup(ledger, 1, workers=workers, share=share, bound=bound)
    return ledger


def regroup(
    ledger: SampleLedger, incarnation: int, *, workers: int, share: int = 8, bound: int = 4, ahead: int = 0
) -> None:
    ledger.regroup(
        incarnation=incarnation,
        workers=workers,
        samples=SAMPLES,
        epochs=EPOCHS,
        batch=share * workers,
        share=share,
        bound=bound,
        ahead=ahead,
    )


def a_simulation() -> Simulation:
    coordinator = Coordinator([], lambda epoch, samples, rows: 1.0)
    return Simulation(coordinator, [], lambda lease, pulled: ((), 1.0 * len(lease.stretch)))


def a_group(workers: int, *, share: int = 8, bound: int = 4, ahead: int = 0) -> Group:
    return Group(
        workers=workers,
        samples=SAMPLES,
        epochs=EPOCHS,
        share=share,
        batch=share * workers,
        bound=bound,
        scaling=None,
        ahead=ahead,
    )


def consumed(pushes: list[Push]) -> Counter[int]:
    return Counter(cursor for push in pushes for cursor in range(push.lease.stretch.start, push.lease.stretch.end))


EACH_ONCE = Counter(range(SAMPLES * EPOCHS))


@pytest.mark.parametrize(
    ("deadlines", "position", "expected"),
    [
        pytest.param([], 0, True, id="nothing is out"),
        pytest.param([5], 5, True, id="the last position that one deadline allows"),
        pytest.param([5], 6, False, id="one position too late"),
        pytest.param([7, 5, 6], 5, True, id="each takes the position of its deadline"),
        pytest.param([5, 5], 5, False, id="two want one position"),
    ],
)
def test_deadlines_are_feasible_when_each_finds_a_position(deadlines: list[int], position: int, expected: bool) -> None:
    assert feasible(deadlines, position) is expected


@given(
    ticks=some.lists(some.integers(1, 9), min_size=1, max_size=5),
    share=some.integers(1, 20),
    bound=some.integers(0, 8),
    losses=some.lists(some.tuples(some.integers(1, 30), some.integers(1, 5)), max_size=4),
    ahead=some.integers(0, 4),
)
@settings(max_examples=150, deadline=None)
def test_the_bound_holds_and_each_sample_counts_once_whatever_the_speeds_and_losses(
    ticks: list[int], share: int, bound: int, losses: list[tuple[int, int]], ahead: int
) -> None:
    simulation = a_simulation()
    simulation.start(ticks, a_group(len(ticks), share=share, bound=bound, ahead=ahead))
    for after, workers in losses:
        # The group is lost; those of it that still run push on for nothing.
        simulation.run(after)
        slow = (ticks * workers)[:workers]
        simulation.start(slow, a_group(workers, share=share, bound=bound, ahead=ahead))
    assert simulation.run()

    assert consumed(simulation.pushes) == EACH_ONCE
    assert max(push.staleness for push in simulation.pushes) <= bound
    assert [closing.epoch for closing in simulation.closings] == list(range(EPOCHS))
    assert [closing.tally.loss_sum for closing in simulation.closings] == [SAMPLES] * EPOCHS
    assert simulation.coordinator.counts().samples == SAMPLES * EPOCHS
    assert_promises_kept(simulation.pushes, ahead)


def assert_promises_kept(pushes: list[Push], ahead: int) -> None:
    """Each worker's leases are what its lease before said, and so many were promised while there were some."""
    by_worker: dict[Worker, list[Lease]] = {}
    for push in pushes:
        by_worker.setdefault(push.worker, []).append(push.lease)
    for leases in by_worker.values():
        stretches = [lease.stretch for lease in leases]
        for number, lease in enumerate(leases):
            following = stretches[number + 1 : number + 1 + ahead]
            assert list(lease.ahead[: len(following)]) == following
            assert len(lease.ahead) <= ahead


def test_a_slow_worker_makes_its_gradients_stale_up_to_the_bound_and_then_others_wait() -> None:
    free, bounded = a_simulation(), a_simulation()
    free.start([1, 1, 1, 9], a_group(4, share=1, bound=1000))
    bounded.start([1, 1, 1, 9], a_group(4, share=1, bound=6))
    assert free.run()
    assert bounded.run()
    slow = [push.staleness for push in free.pushes if push.worker.rank == 3]
    assert max(slow) > 6
    assert free.waits == 0
    assert max(push.staleness for push in bounded.pushes) == 6
    assert bounded.waits > 0


def test_a_bound_of_0_makes_workers_take_turns() -> None:
    simulation = a_simulation()
    simulation.start([1, 2, 3], a_group(3, bound=0))
    assert simulation.run()
    assert {push.staleness for push in simulation.pushes} == {0}


def test_what_a_lost_worker_held_is_leased_to_another_and_what_it_sends_is_refused() -> None:
    ledger = a_ledger()
    lost = Worker(0, 1)
    held = ledger.lease(lost)
    assert isinstance(held, Lease)
    regroup(ledger, 2, workers=1)

    again = ledger.lease(Worker(0, 2))
    assert isinstance(again, Lease)
    assert again.stretch == held.stretch
    assert ledger.push(lost, held.number, 1.0) is Answer.FENCED
    assert ledger.lease(lost) is Answer.FENCED
    assert isinstance(ledger.push(Worker(0, 2), again.number, 1.0), Ticket)
    assert ledger.push(Worker(0, 2), again.number, 1.0) is Answer.FENCED, "a push that is sent twice counts once"
    assert ledger.samples_applied == len(held.stretch)


def test_what_a_lost_worker_was_promised_is_leased_to_another() -> None:
    ledger = SampleLedger()
    regroup(ledger, 1, workers=2, ahead=2)
    held = ledger.lease(Worker(0, 1))
    assert isinstance(held, Lease)
    assert [stretch.start for stretch in held.ahead] == [8, 16]
    regroup(ledger, 2, workers=1)
    again = []
    for _ in range(4):
        lease = ledger.lease(Worker(0, 2))
        assert isinstance(lease, Lease)
        again.append(lease.stretch.start)
        ledger.push(Worker(0, 2), lease.number, 1.0)
    assert again == [0, 8, 16, 24]


def test_a_worker_without_samples_waits_for_those_that_others_were_promised() -> None:
    ledger = SampleLedger()
    regroup(ledger, 1, workers=2, share=SAMPLES, ahead=EPOCHS)
    holder, other = Worker(0, 1), Worker(1, 1)
    for _ in range(EPOCHS):
        lease = ledger.lease(holder)
        assert isinstance(lease, Lease)
        assert ledger.lease(other) is Answer.WAIT
        ledger.push(holder, lease.number, 1.0)
        ledger.close_epoch()
    assert ledger.lease(other) is Answer.DONE


def test_a_rank_above_the_size_of_the_group_gets_nothing() -> None:
    assert a_ledger(workers=2).lease(Worker(2, 1)) is Answer.FENCED


def test_leases_run_at_most_one_epoch_ahead_of_the_last_closed() -> None:
    ledger = a_ledger(workers=1, share=SAMPLES)
    worker = Worker(0, 1)
    for _ in range(2):
        lease = ledger.lease(worker)
        assert isinstance(lease, Lease)
        ledger.push(worker, lease.number, 1.0)
    assert ledger.lease(worker) is Answer.WAIT
    ledger.close_epoch()
    assert isinstance(ledger.lease(worker), Lease)


def test_the_last_samples_are_waited_for_because_they_may_come_back() -> None:
    ledger = a_ledger(workers=2, share=SAMPLES)
    for _ in range(EPOCHS - 1):
        lease = ledger.lease(Worker(0, 1))
        assert isinstance(lease, Lease)
        ledger.push(Worker(0, 1), lease.number, 1.0)
        ledger.close_epoch()
    lease = ledger.lease(Worker(0, 1))
    assert isinstance(lease, Lease)
    assert ledger.lease(Worker(1, 1)) is Answer.WAIT
    ledger.push(Worker(0, 1), lease.number, 1.0)
    assert ledger.lease(Worker(1, 1)) is Answer.DONE


def test_after_a_stop_what_is_out_may_come_in_and_nothing_more_goes_out() -> None:
    ledger = a_ledger()
    lease = ledger.lease(Worker(0, 1))
    assert isinstance(lease, Lease)
    ledger.stop()
    assert ledger.lease(Worker(1, 1)) is Answer.DONE
    assert not ledger.idle
    assert isinstance(ledger.push(Worker(0, 1), lease.number, 1.0), Ticket)
    assert ledger.idle


@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("ticks", [5, 17, 20])
def test_a_snapshot_goes_on_with_exactly_what_was_not_applied(ticks: int, ahead: int) -> None:
    first = a_simulation()
    first.start([1, 2, 3], a_group(3, ahead=ahead))
    assert not first.run(ticks)
    snapshot = first.coordinator.snapshot()
    applied = list(first.pushes)

    later = a_simulation()
    later.coordinator.open(a_group(2, ahead=ahead), snapshot.ledger, [])
    later.start([1, 1], a_group(2, ahead=ahead))
    assert later.run()
    assert consumed(applied) + consumed(later.pushes) == EACH_ONCE
    assert later.coordinator.version == len(applied) + len(later.pushes)


@pytest.mark.parametrize(
    ("name", "staleness", "workers", "expected"),
    [
        pytest.param(None, 40, 4, 1.0, id="not asked for"),
        pytest.param("none", 40, 4, 1.0, id="none"),
        pytest.param("inverse", 3, 4, 1.0, id="as stale as equal speeds make it"),
        pytest.param("inverse", 6, 4, 0.5, id="twice as stale"),
        pytest.param("inverse", 1, 1, 1.0, id="one worker"),
    ],
)
def test_rates_are_scaled_by_staleness(name: str | None, staleness: int, workers: int, expected: float) -> None:
    assert scaling(name, staleness, workers) == expected


def test_a_histogram_counts() -> None:
    histogram = Histogram([1])
    for staleness in (3, 1, 3):
        histogram.add(staleness)
    assert (histogram.counts, histogram.mean, histogram.largest) == ([1, 1, 0, 2], 7 / 4, 3)
    assert (Histogram().mean, Histogram().largest) == (0.0, 0)
