from __future__ import annotations

from scaling_operator.runtime.store import Store
from scaling_operator.runtime.tracker import WriteTracker
from tests.unit.scaling_operator.runtime.scripted_server import pod


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def synced(name: str, version: int) -> Store:
    store = Store(name)
    store.replace([], version)
    return store


def test_a_key_waits_for_its_own_newest_write() -> None:
    tracker: WriteTracker[str] = WriteTracker(clock=Clock())
    store = synced("pods", 5)
    tracker.record("a", store, pod("x", 9))
    tracker.record("a", store, pod("y", 7))
    store.advance(8)
    assert not tracker.caught_up("a")
    assert tracker.caught_up("b")
    store.advance(9)
    assert tracker.caught_up("a")


def test_all_stores_have_to_catch_up() -> None:
    tracker: WriteTracker[str] = WriteTracker(clock=Clock())
    pods, services = synced("pods", 5), synced("services", 5)
    tracker.record("a", pods, pod("x", 7))
    tracker.record("a", services, pod("y", 8))
    pods.advance(10)
    assert not tracker.caught_up("a")
    services.advance(8)
    assert tracker.caught_up("a")


def test_a_write_that_the_store_shows_already_is_no_debt() -> None:
    tracker: WriteTracker[str] = WriteTracker(clock=Clock())
    tracker.record("a", synced("pods", 9), pod("x", 9))
    assert tracker.caught_up("a")


def test_waiting_is_given_up_after_the_deadline_of_the_last_write() -> None:
    clock = Clock()
    tracker: WriteTracker[str] = WriteTracker(give_up_after_s=10, clock=clock)
    store = synced("pods", 5)
    tracker.record("a", store, pod("x", 7))
    clock.now = 6
    tracker.record("a", store, pod("y", 8))
    clock.now = 15.5
    assert tracker.wait_s("a") == 0.5
    clock.now = 16
    assert tracker.caught_up("a")


def test_a_forgotten_key_owes_nothing() -> None:
    tracker: WriteTracker[str] = WriteTracker(clock=Clock())
    tracker.record("a", synced("pods", 5), pod("x", 9))
    tracker.forget("a")
    assert tracker.caught_up("a")
