"""Who is told what, beside what the ledger says."""

from __future__ import annotations

import pytest

from scaling_training.errors import UserError
from scaling_training.update.coordinator import Coordinator
from scaling_training.update.messages import Closing, Group, Pushed
from scaling_training.update.samples import Answer, Lease, Worker

GROUP = Group(workers=2, samples=8, epochs=1, share=4, batch=8, bound=4, scaling=None)


def opened() -> tuple[Coordinator, Worker, Worker]:
    coordinator = Coordinator([], lambda samples, applied, rows: 0.1)
    incarnation = coordinator.open(GROUP, None, ())
    return coordinator, Worker(0, incarnation), Worker(1, incarnation)


def work(coordinator: Coordinator, worker: Worker) -> None:
    lease = coordinator.next(worker)
    assert isinstance(lease, Lease)
    assert isinstance(coordinator.push(worker, lease.number, 1.0), Pushed)


@pytest.mark.parametrize("is_stopped", [False, True], ids=["at the end", "after a stop"])
def test_the_others_wait_until_rank_0_has_closed_and_saved_everything(is_stopped: bool) -> None:
    coordinator, first, other = opened()
    work(coordinator, first)
    work(coordinator, other)
    if is_stopped:
        coordinator.stop()
    assert coordinator.next(other) is Answer.WAIT
    closing = coordinator.next(first)
    assert isinstance(closing, Closing)
    assert coordinator.next(other) is Answer.WAIT
    coordinator.close_epoch({"epoch": 1})
    assert coordinator.next(first) is Answer.DONE
    assert coordinator.next(other) is Answer.WAIT
    coordinator.dismiss()
    assert coordinator.next(other) is Answer.DONE


def test_a_new_group_is_not_dismissed() -> None:
    coordinator, first, _ = opened()
    work(coordinator, first)
    coordinator.stop()
    coordinator.dismiss()
    incarnation = coordinator.open(GROUP, None, ())
    coordinator.stop()
    assert coordinator.next(Worker(1, incarnation)) is Answer.WAIT


def test_when_one_cannot_go_on_rank_0_ends_the_group_and_the_others_wait_for_it() -> None:
    coordinator, first, other = opened()
    lease = coordinator.next(first)
    assert isinstance(lease, Lease)
    assert isinstance(coordinator.next(other), Lease)
    coordinator.fail(other, "the loss is none")
    coordinator.fail(other, "and another")
    for ask in (
        lambda: coordinator.next(first),
        lambda: coordinator.push(first, lease.number, 1.0),
        coordinator.snapshot,
    ):
        with pytest.raises(UserError, match="the loss is none"):
            ask()
    assert coordinator.next(other) is Answer.WAIT
    coordinator.dismiss()
    assert coordinator.next(other) is Answer.DONE


def test_a_group_that_was_replaced_ends_no_other() -> None:
    coordinator, _, before = opened()
    incarnation = coordinator.open(GROUP, None, ())
    coordinator.fail(before, "the loss is none")
    assert not coordinator.failed
    assert coordinator.next(before) is Answer.FENCED
    coordinator.fail(Worker(1, incarnation), "the loss is none")
    following = coordinator.open(GROUP, None, ())
    assert isinstance(coordinator.next(Worker(0, following)), Lease)


def test_an_epoch_that_a_snapshot_left_open_is_closed_with_the_rate_of_its_last_push() -> None:
    coordinator, first, other = opened()
    work(coordinator, first)
    work(coordinator, other)
    closing = coordinator.next(first)
    assert isinstance(closing, Closing)
    snapshot = coordinator.snapshot()

    asked = list[int]()

    def rate(samples: int, applied: int, rows: object) -> float:
        asked.append(applied)
        return 0.1

    later = Coordinator([], rate)
    incarnation = later.open(GROUP, snapshot.ledger, ())
    again = later.next(Worker(0, incarnation))
    assert isinstance(again, Closing)
    assert (again.rate, asked) == (closing.rate, [GROUP.samples - 1])
