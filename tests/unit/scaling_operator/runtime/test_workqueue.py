from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling_operator.runtime.ratelimit import RetryDelays
from scaling_operator.runtime.workqueue import QueueShutDown, WorkQueue
from tests.unit.scaling_operator.runtime.virtual_time import run_in_virtual_time


async def test_keys_come_once_and_in_order() -> None:
    queue: WorkQueue[str] = WorkQueue("q")
    for key in "abab":
        queue.add(key)
    assert len(queue) == 2
    assert [await queue.get(), await queue.get()] == ["a", "b"]


async def test_a_key_added_while_processed_comes_again_only_after_done() -> None:
    queue: WorkQueue[str] = WorkQueue("q")
    queue.add("a")
    await queue.get()
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_done_without_get_is_an_error() -> None:
    queue: WorkQueue[str] = WorkQueue("q")
    with pytest.raises(KeyError):
        queue.done("a")


@pytest.mark.parametrize(
    ("delays", "expected"),
    [
        pytest.param([5], 5, id="one delay"),
        pytest.param([5, 2, 9], 2, id="the earliest of several"),
        pytest.param([0], 0, id="no delay"),
        pytest.param([-1], 0, id="a moment in the past"),
    ],
)
def test_add_after(delays: list[float], expected: float) -> None:
    async def main() -> float:
        queue: WorkQueue[str] = WorkQueue("q")
        loop = asyncio.get_running_loop()
        started = loop.time()
        for delay_s in delays:
            queue.add_after("a", delay_s)
        await queue.get()
        waited = loop.time() - started
        queue.done("a")
        await asyncio.sleep(100)
        assert len(queue) == 0
        return waited

    assert run_in_virtual_time(main()) == pytest.approx(expected, abs=0.01)


def test_rate_limited_additions_wait_longer_each_time() -> None:
    async def main() -> list[float]:
        queue: WorkQueue[str] = WorkQueue("q", delays=RetryDelays(base_s=1, max_s=4))
        loop = asyncio.get_running_loop()
        waits = []
        for _ in range(4):
            started = loop.time()
            queue.add_rate_limited("a")
            queue.done(await queue.get())
            waits.append(loop.time() - started)
        assert queue.retries("a") == 4
        queue.forget("a")
        assert queue.retries("a") == 0
        return waits

    assert run_in_virtual_time(main()) == pytest.approx([1, 2, 4, 4], abs=0.01)


async def test_a_cancelled_worker_passes_its_wake_up_on() -> None:
    queue: WorkQueue[str] = WorkQueue("q")
    first, second = (asyncio.create_task(queue.get()) for _ in range(2))
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    assert await asyncio.wait_for(second, 60) == "a"
    assert first.cancelled()


async def test_shutdown_releases_workers_and_refuses_keys() -> None:
    queue: WorkQueue[str] = WorkQueue("q")
    queue.add("a")
    await queue.get()
    queue.add("a")
    queue.add("b")
    queue.add_after("c", 0.001)
    idle = asyncio.create_task(queue.get())
    queue.shutdown()
    queue.add("d")
    queue.add_after("d", 0.001)
    with pytest.raises(QueueShutDown):
        await queue.get()
    drained = asyncio.create_task(queue.drained())
    await asyncio.sleep(0.01)
    assert not drained.done()
    queue.done("a")
    await drained
    assert len(queue) == 0
    with pytest.raises(QueueShutDown):
        await idle


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "after", "limited"]),
        st.integers(0, 3),
        st.floats(0, 3),
        # The pause before the operation; mostly none, so that operations meet a running worker.
        st.sampled_from([0.0, 0.0, 0.0, 0.3, 2.0]),
    ),
    max_size=50,
)


@given(OPERATIONS, st.integers(1, 3), st.lists(st.sampled_from([0.0, 0.1, 0.7]), min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_every_addition_is_followed_by_a_run_and_no_key_runs_twice_at_once(
    operations: list[tuple[str, int, float, float]], workers: int, durations: list[float]
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        queue: WorkQueue[int] = WorkQueue("q", delays=RetryDelays(base_s=0.1, max_s=2, rate=1e6))
        running: set[int] = set()
        runs: dict[int, list[float]] = {key: [] for key in range(4)}
        asked: dict[int, list[tuple[float, float]]] = {key: [] for key in range(4)}

        async def work() -> None:
            while True:
                try:
                    key = await queue.get()
                except QueueShutDown:
                    return
                assert key not in running
                running.add(key)
                runs[key].append(loop.time())
                await asyncio.sleep(durations[len(runs[key]) % len(durations)])
                running.remove(key)
                queue.done(key)

        tasks = [asyncio.create_task(work()) for _ in range(workers)]
        for kind, key, delay_s, pause_s in operations:
            await asyncio.sleep(pause_s)
            if kind == "add":
                delay_s = 0.0
                queue.add(key)
            elif kind == "after":
                queue.add_after(key, delay_s)
            else:
                delay_s = queue.add_rate_limited(key)
            asked[key].append((loop.time(), delay_s))
        await asyncio.sleep(1000)
        assert len(queue) == 0
        queue.shutdown()
        await asyncio.gather(*tasks)
        for key in range(4):
            assert len(runs[key]) <= len(asked[key])
            for at, delay_s in asked[key]:
                # Early is possible, because another addition may have been due before; never is not.
                served = [run for run in runs[key] if run >= at]
                assert served
                assert served[0] <= at + delay_s + len(operations) * max(durations) + 1e-6
            if runs[key]:
                assert runs[key][0] >= min(at + delay_s for at, delay_s in asked[key]) - 1e-6

    run_in_virtual_time(main())
