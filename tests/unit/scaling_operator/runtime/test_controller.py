from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator

import pytest
from prometheus_client import REGISTRY

from scaling_operator.runtime import errors, logs
from scaling_operator.runtime.controller import Controller, Reconcile, Result
from scaling_operator.runtime.objects import Key
from scaling_operator.runtime.ratelimit import RetryDelays
from scaling_operator.runtime.store import Store
from scaling_operator.runtime.tracker import WriteTracker
from scaling_operator.runtime.workqueue import WorkQueue
from tests.unit.scaling_operator.runtime.scripted_server import pod
from tests.unit.scaling_operator.runtime.virtual_time import run_in_virtual_time

A, B = Key("ns", "a"), Key("ns", "b")


def make_queue() -> WorkQueue[Key]:
    return WorkQueue("q", delays=RetryDelays(base_s=1, max_s=60))


@contextlib.asynccontextmanager
async def working(
    reconcile: Reconcile,
    queue: WorkQueue[Key],
    *,
    workers: int = 2,
    reconcile_timeout_s: float = 30,
    tracker: WriteTracker[Key] | None = None,
) -> AsyncIterator[Controller]:
    controller = Controller(
        "test",
        reconcile,
        queue,
        workers=workers,
        reconcile_timeout_s=reconcile_timeout_s,
        tracker=tracker,
    )
    task = asyncio.create_task(controller.run())
    try:
        yield controller
    finally:
        queue.shutdown()
        await task


def count(result: str) -> float:
    labels = {"controller": "test", "result": result}
    return REGISTRY.get_sample_value("controller_runtime_reconcile_total", labels) or 0.0


class Reconciler:
    """Plays a list of results or exceptions and notes when it was called."""

    def __init__(self, *outcomes: Result | Exception) -> None:
        self.calls: list[tuple[float, Key]] = []
        self._outcomes = list(outcomes)

    async def __call__(self, key: Key) -> Result:
        self.calls.append((asyncio.get_running_loop().time(), key))
        outcome = self._outcomes.pop(0) if self._outcomes else Result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def gaps(self) -> list[float]:
        times = [at for at, _ in self.calls]
        return [later - earlier for earlier, later in itertools.pairwise(times)]


def run_key(reconciler: Reconciler, seconds: float = 1000) -> None:
    async def main() -> None:
        queue = make_queue()
        async with working(reconciler, queue):
            queue.add(A)
            await asyncio.sleep(seconds)

    run_in_virtual_time(main())


@pytest.mark.parametrize(
    ("outcomes", "gaps"),
    [
        pytest.param([Result()], [], id="a success is final until something changes"),
        pytest.param([Result(7.0)], [7], id="a wish to look again is fulfilled"),
        pytest.param([Result(0.0)], [0], id="at once if wished"),
        pytest.param([ValueError(), ValueError(), ValueError()], [1, 2, 4], id="failures wait longer each time"),
        pytest.param([ValueError(), Result(5.0), ValueError()], [1, 5, 1], id="a success starts the count anew"),
        pytest.param([errors.from_status(429, None, retry_after_s=30)], [30], id="the server's retry-after decides"),
    ],
)
def test_when_a_key_comes_back(outcomes: list[Result | Exception], gaps: list[float]) -> None:
    reconciler = Reconciler(*outcomes)
    run_key(reconciler)
    assert reconciler.gaps() == pytest.approx(gaps, abs=0.01)


@pytest.mark.parametrize(
    ("exc", "level", "traceback"),
    [
        pytest.param(ValueError("bug"), "ERROR", True, id="a bug brings its traceback"),
        pytest.param(errors.from_status(403, None), "WARNING", False, id="an API error is one line"),
        pytest.param(errors.from_status(409, None), "DEBUG", False, id="a lost race is everyday"),
    ],
)
def test_a_failure_is_logged_once_with_its_key(
    exc: Exception, level: str, traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "scaling_operator")
    fields = []

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fields.append(logs.fields_of(record))

    handler = Note()
    logging.getLogger("scaling_operator").addHandler(handler)
    try:
        run_key(Reconciler(exc))
    finally:
        logging.getLogger("scaling_operator").removeHandler(handler)
    (record,) = caplog.records
    assert record.levelname == level
    assert (record.exc_info is not None) == traceback
    assert fields[0]["namespace"] == "ns"
    assert fields[0]["name"] == "a"
    assert fields[0]["failures"] == 1


def test_a_reconcile_that_takes_too_long_is_ended_and_retried() -> None:
    calls = []

    async def reconcile(key: Key) -> Result:
        calls.append(key)
        if len(calls) == 1:
            await asyncio.sleep(10_000)
        return Result()

    async def main() -> None:
        queue = make_queue()
        async with working(reconcile, queue, reconcile_timeout_s=30):
            queue.add(A)
            await asyncio.sleep(35)

    run_in_virtual_time(main())
    assert calls == [A, A]


def test_results_are_counted() -> None:
    before = {result: count(result) for result in ("success", "requeue_after", "error")}
    run_key(Reconciler(ValueError(), Result(1.0)))
    assert {result: count(result) - n for result, n in before.items()} == {
        "success": 1,
        "requeue_after": 1,
        "error": 1,
    }


def test_keys_run_in_parallel_up_to_the_number_of_workers() -> None:
    running = 0
    peak = 0

    async def reconcile(key: Key) -> Result:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(1)
        running -= 1
        return Result()

    async def main() -> None:
        queue = make_queue()
        async with working(reconcile, queue, workers=3):
            for index in range(9):
                queue.add(Key("ns", str(index)))
            await asyncio.sleep(100)

    run_in_virtual_time(main())
    assert peak == 3


def test_shutdown_lets_a_reconcile_in_progress_finish() -> None:
    finished = []

    async def reconcile(key: Key) -> Result:
        await asyncio.sleep(10)
        finished.append(key)
        return Result(requeue_after_s=1)

    async def main() -> None:
        queue = make_queue()
        async with working(reconcile, queue, workers=1):
            queue.add(A)
            queue.add(B)
            await asyncio.sleep(1)

    run_in_virtual_time(main())
    assert finished == [A]


@pytest.mark.parametrize(
    ("shown_after_s", "expected_gap"),
    [
        pytest.param(3.0, 3.0, id="until the cache shows it"),
        pytest.param(None, 10.0, id="no longer than the limit"),
    ],
)
def test_a_key_is_put_off_while_the_cache_lacks_its_own_write(shown_after_s: float | None, expected_gap: float) -> None:
    reconciler = Reconciler()

    async def main() -> None:
        queue, store = make_queue(), Store("pods")
        store.replace([], 5)
        store.add_handler(lambda change, old, new: queue.add(A))
        tracker: WriteTracker[Key] = WriteTracker(give_up_after_s=10)

        async def reconcile(key: Key) -> Result:
            await reconciler(key)
            if len(reconciler.calls) == 1:
                tracker.record(key, store, pod("a-0", 7))
                queue.add(key)
            return Result()

        async with working(reconcile, queue, tracker=tracker):
            queue.add(A)
            await asyncio.sleep(shown_after_s or 50)
            if shown_after_s:
                store.apply("ADDED", pod("other", 6))
                await asyncio.sleep(0)
                assert len(reconciler.calls) == 1
                store.apply("ADDED", pod("a-0", 7))
            await asyncio.sleep(50)

    run_in_virtual_time(main())
    assert reconciler.gaps()[0] == pytest.approx(expected_gap, abs=0.01)
