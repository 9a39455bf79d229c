from __future__ import annotations

import asyncio
import copy
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling_operator.runtime.objects import Key, Object, key_of, version_of
from scaling_operator.runtime.store import Change, Store
from tests.unit.scaling_operator.runtime.scripted_server import pod


class Recorder:
    """Follows a store by its handlers alone."""

    def __init__(self, store: Store) -> None:
        self.content: dict[Key, Object] = {}
        self.changes: list[tuple[Change, str]] = []
        store.add_handler(self)

    def __call__(self, change: Change, old: Object | None, new: Object | None) -> None:
        obj = new or old
        assert obj is not None
        key = key_of(obj)
        self.changes.append((change, key.name))
        if change == "ADDED":
            assert old is None
            assert key not in self.content
        else:
            assert key in self.content
        if new is None:
            del self.content[key]
        else:
            self.content[key] = new


def names(objects: list[Object]) -> list[str]:
    return sorted(obj["metadata"]["name"] for obj in objects)


def test_a_list_is_compared_with_what_is_there() -> None:
    store = Store("pods")
    store.replace([pod("stays", 1), pod("changes", 2), pod("goes", 3)], 5)
    recorder = Recorder(store)
    recorder.changes.clear()
    store.replace([pod("stays", 1), pod("changes", 7), pod("comes", 8)], 9)
    assert recorder.changes == [("MISSED", "goes"), ("MODIFIED", "changes"), ("ADDED", "comes")]
    assert store.resource_version == 9


def test_a_list_older_than_the_store_is_refused() -> None:
    store = Store("pods")
    store.replace([], 5)
    store.apply("ADDED", pod("a", 8))
    assert not store.replace([], 7)
    assert len(store) == 1
    assert store.replace([], 7, force=True)
    assert len(store) == 0
    assert store.resource_version == 7


@pytest.mark.parametrize(
    ("change", "version", "expected"),
    [
        pytest.param("MODIFIED", 10, 10, id="newer state replaces"),
        pytest.param("MODIFIED", 6, 6, id="next state replaces"),
        pytest.param("MODIFIED", 5, 5, id="same state again is dropped"),
        pytest.param("MODIFIED", 3, 5, id="older state is dropped"),
        pytest.param("DELETED", 3, 5, id="deletion of an earlier incarnation is dropped"),
        pytest.param("DELETED", 5, None, id="deletion under the last version counts"),
        pytest.param("DELETED", 9, None, id="deletion counts"),
    ],
)
def test_only_news_counts(change: Change, version: int, expected: int | None) -> None:
    store = Store("pods")
    store.replace([pod("a", 5)], 5)
    store.apply(change, pod("a", version))
    obj = store.get("ns", "a")
    assert (version_of(obj) if obj is not None else None) == expected


def test_the_last_state_of_a_deleted_object_reaches_handlers() -> None:
    store = Store("pods")
    store.replace([pod("a", 5)], 5)
    seen: list[Object | None] = []
    store.add_handler(lambda change, old, new: seen.append(old))
    store.apply("DELETED", pod("a", 6, status={"phase": "Failed"}))
    assert seen[-1] == pod("a", 6, status={"phase": "Failed"})


def test_a_handler_added_late_gets_everything_first() -> None:
    store = Store("pods")
    store.replace([pod("a", 1), pod("b", 2)], 2)
    assert Recorder(store).changes == [("ADDED", "a"), ("ADDED", "b")]


def test_a_failing_handler_stops_neither_the_store_nor_the_others(caplog: pytest.LogCaptureFixture) -> None:
    store = Store("pods")

    def fail(*_: object) -> None:
        raise RuntimeError("cannot cope")

    store.add_handler(fail)
    recorder = Recorder(store)
    store.apply("ADDED", pod("a", 1))
    assert recorder.changes == [("ADDED", "a")]
    assert "handler failed" in caplog.text


def test_indexes_follow_objects() -> None:
    store = Store("pods")
    store.add_index("job", lambda obj: [obj["job"]] if "job" in obj else [])
    store.replace([pod("a", 1, job="x"), pod("b", 2, job="x"), pod("c", 3)], 3)
    assert names(store.by_index("job", "x")) == ["a", "b"]
    store.apply("MODIFIED", pod("a", 4, job="y"))
    store.apply("DELETED", pod("b", 5, job="x"))
    assert store.by_index("job", "x") == []
    assert names(store.by_index("job", "y")) == ["a"]
    with pytest.raises(KeyError):
        store.by_index("unknown", "x")
    with pytest.raises(ValueError, match="already has an index named job"):
        store.add_index("job", lambda obj: [])


def test_an_index_added_late_covers_what_is_there() -> None:
    store = Store("pods")
    store.replace([pod("a", 1, job="x")], 1)
    store.add_index("job", lambda obj: [obj["job"]])
    assert names(store.by_index("job", "x")) == ["a"]


class TestObserve:
    def test_a_write_of_our_own_shows_at_once_and_its_event_is_old_news(self) -> None:
        store = Store("pods")
        store.replace([], 5)
        recorder = Recorder(store)
        store.observe(pod("a", 7))
        store.apply("ADDED", pod("a", 7))
        assert recorder.changes == [("ADDED", "a")]
        assert store.resource_version == 7

    def test_news_of_others_below_our_version_still_counts(self) -> None:
        store = Store("pods")
        store.replace([], 5)
        store.observe(pod("a", 7))
        store.apply("ADDED", pod("b", 6))
        assert names(store.values()) == ["a", "b"]

    def test_an_answer_that_the_watch_has_overtaken_does_not_resurrect(self) -> None:
        store = Store("pods")
        store.replace([], 5)
        store.apply("ADDED", pod("a", 6))
        store.apply("DELETED", pod("a", 8))
        store.observe(pod("a", 6))
        assert len(store) == 0

    def test_a_list_from_before_the_write_keeps_it(self) -> None:
        store = Store("pods")
        store.replace([], 5)
        store.observe(pod("a", 9))
        store.replace([], 7)
        assert names(store.values()) == ["a"]


async def test_waiting_for_a_version() -> None:
    store = Store("pods")
    store.replace([], 5)
    assert await store.wait_for_version(5, 0)
    waiting = asyncio.create_task(store.wait_for_version(8, 60))
    await asyncio.sleep(0)
    store.advance(7)
    await asyncio.sleep(0)
    assert not waiting.done()
    store.advance(8)
    assert await waiting
    assert not await store.wait_for_version(9, 0.01)
    store.advance(9)


async def test_synced_after_the_first_list() -> None:
    store = Store("pods")
    waiting = asyncio.create_task(store.wait_synced())
    await asyncio.sleep(0)
    assert not store.has_synced
    store.replace([], 1)
    await waiting
    assert store.has_synced


class Truth:
    """What the API server holds, with its history of changes, one version each."""

    def __init__(self) -> None:
        self.version = 10
        self.objects: dict[Key, Object] = {}
        self.history: list[tuple[int, Change, Object]] = []
        self.snapshots: dict[int, list[Object]] = {10: []}

    def change(self, name: str, kind: str) -> Object | None:
        key = Key("ns", name)
        held = self.objects.get(key)
        if (kind == "create") != (held is None):
            return None
        self.version += 1
        obj = pod(name, self.version, job=f"job-{self.version % 3}")
        if kind == "delete":
            del self.objects[key]
            change: Change = "DELETED"
        else:
            change = "ADDED" if held is None else "MODIFIED"
            self.objects[key] = obj
        self.history.append((self.version, change, obj))
        self.snapshots[self.version] = list(self.objects.values())
        return obj


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["create", "update", "delete"]), st.sampled_from("abc"), st.booleans()),
        st.tuples(st.just("deliver"), st.integers(1, 4)),
        st.tuples(st.just("repeat"), st.integers(1, 4)),
        st.tuples(st.just("list"), st.integers(0, 6)),
        st.tuples(st.just("bookmark")),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=400, deadline=None)
def test_however_news_arrives_the_store_ends_up_with_the_truth(steps: list[tuple[object, ...]]) -> None:
    """Lists (stale ones too), repeated events and answers to own writes, interleaved at will with a watch."""
    truth, store = Truth(), Store("pods")
    store.add_index("job", lambda obj: [obj["job"]])
    recorder = Recorder(store)
    store.replace([], truth.version)

    def deliver(limit: int) -> None:
        news = [row for row in truth.history if row[0] > store.resource_version][:limit]
        for _, change, obj in news:
            store.apply(change, copy.deepcopy(obj))

    for step in steps:
        match step:
            case ("deliver", int(count)):
                deliver(count)
            case ("repeat", int(count)):
                seen = [row for row in truth.history if row[0] <= store.resource_version]
                for _, change, obj in seen[-count:]:
                    store.apply(change, copy.deepcopy(obj))
            case ("list", int(age)):
                version = max(10, truth.version - age)
                before = store.resource_version
                accepted = store.replace(copy.deepcopy(truth.snapshots[version]), version)
                assert accepted == (version >= before)
            case ("bookmark",):
                deliver(len(truth.history))
                store.advance(truth.version)
            case (str(kind), str(name), bool(ours)):
                written = truth.change(name, kind)
                if written is not None and ours and kind != "delete":
                    store.observe(copy.deepcopy(written))
        # Nothing in the store is ever older than what the store claims to have seen.
        for key, held in truth.objects.items():
            if version_of(held) <= store.resource_version:
                assert store.get(*key) == held
        by_job: dict[str, list[str]] = defaultdict(list)
        for held in store.values():
            by_job[held["job"]].append(held["metadata"]["name"])
        for job in ("job-0", "job-1", "job-2"):
            assert names(store.by_index("job", job)) == sorted(by_job[job])
    deliver(len(truth.history))
    assert {key_of(held): held for held in store.values()} == truth.objects
    assert recorder.content == truth.objects
