from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import scaling_training.data.order as order_module
from scaling_training.data.order import DataOrder, balanced_order, natural_order, rank_slice

# Recorded once: a change would make the checkpoints of earlier versions repeat and skip samples.
EXPECTED_ORDER = [8, 1, 2, 4, 5, 6, 7, 3, 9, 0]


@settings(deadline=None)
@given(count=st.integers(0, 500), size=st.integers(1, 40))
def test_slices_cover_a_batch_with_sizes_that_differ_by_at_most_one(count: int, size: int) -> None:
    slices = [rank_slice(count, rank, size) for rank in range(size)]
    sizes = [part.stop - part.start for part in slices]

    assert [index for part in slices for index in range(part.start, part.stop)] == list(range(count))
    assert max(sizes) - min(sizes) <= 1
    assert sizes[0] == max(sizes)


@settings(deadline=None)
@given(
    samples=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    worlds=st.lists(st.integers(1, 7), min_size=1, max_size=8),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_sample_once_per_epoch_whatever_the_world_sizes_and_resumes(
    samples: int, batch_size: int, worlds: list[int], seed: int
) -> None:
    epochs = 3
    seen: list[list[int]] = [[] for _ in range(epochs)]
    cursor, step = 0, 0
    while cursor < samples * epochs:
        # Each step a new group of processes of another size, which knows nothing but the cursor.
        size = worlds[step % len(worlds)]
        order = DataOrder(seed=seed, samples=samples, batch_size=batch_size)
        batch = order.batch_at(cursor)
        for rank in range(size):
            seen[batch.epoch] += batch.indices[rank_slice(len(batch.indices), rank, size)].tolist()
        cursor, step = batch.end, step + 1

    assert all(sorted(epoch) == list(range(samples)) for epoch in seen)
    assert step == epochs * math.ceil(samples / batch_size)


def test_a_fresh_order_goes_on_exactly_where_another_stopped() -> None:
    straight = DataOrder(seed=7, samples=100, batch_size=30)
    cursor, batches = 0, []
    for _ in range(8):
        batch = straight.batch_at(cursor)
        resumed = DataOrder(seed=7, samples=100, batch_size=30).batch_at(cursor)
        np.testing.assert_array_equal(batch.indices, resumed.indices)
        batches.append((batch.epoch, len(batch.indices), batch.ends_epoch))
        cursor = batch.end

    assert batches == [(epoch, size, size == 10) for epoch in (0, 1) for size in (30, 30, 30, 10)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param((0, 0), (0, 100), id="another epoch"),
        pytest.param((0, 0), (1, 0), id="another seed"),
    ],
)
def test_the_order_differs_with(first: tuple[int, int], second: tuple[int, int]) -> None:
    def indices(seed: int, cursor: int) -> list[int]:
        return [int(index) for index in DataOrder(seed=seed, samples=100, batch_size=100).batch_at(cursor).indices]

    assert indices(*first) != indices(*second)


def test_reading_ahead_over_the_end_of_an_epoch_draws_no_order_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def counted(seed: int, epoch: int, samples: int) -> NDArray[np.int64]:
        drawn.append(epoch)
        return natural_order(seed, epoch, samples)

    monkeypatch.setattr(order_module, "natural_order", counted)
    order = DataOrder(seed=0, samples=10, batch_size=2)
    for cursor in range(0, 40, 2):
        order.batch_at(cursor + 4)  # two batches ahead
        order.batch_at(cursor)
    assert drawn == [0, 1, 2, 3, 4]


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    batch = DataOrder(seed=3, samples=10, batch_size=10).batch_at(10)
    assert batch.indices.tolist() == EXPECTED_ORDER


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 60), min_size=2, max_size=6), seed=st.integers(0, 2**32 - 1))
def test_balanced_sampling_draws_each_class_equally_often(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    samples = len(labels)
    totals = np.zeros(len(counts), dtype=np.int64)
    for epoch in range(len(counts)):
        indices = balanced_order(seed, epoch, labels)
        assert len(np.unique(indices)) == samples
        drawn = np.bincount(labels[indices % samples], minlength=len(counts))
        assert drawn.max() - drawn.min() <= 1
        totals += drawn
        # Within a class no sample comes a second time before each has come once.
        times = np.bincount(indices % samples, minlength=samples)
        for label in range(len(counts)):
            assert np.ptp(times[labels == label]) <= 1
    # Who gets one more goes round.
    assert np.ptp(totals) == 0


def test_balanced_batches_do_not_depend_on_where_a_run_resumes() -> None:
    labels = np.repeat([0, 1], [90, 10])

    def order() -> DataOrder:
        return DataOrder(seed=7, samples=100, batch_size=30, balanced=labels)

    straight = order()
    for cursor in (0, 30, 60, 90, 100, 160):
        np.testing.assert_array_equal(straight.batch_at(cursor).indices, order().batch_at(cursor).indices)
