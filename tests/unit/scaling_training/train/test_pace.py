from __future__ import annotations

import pytest

from scaling_training.train.pace import Pace


def test_the_first_step_starts_the_clock_and_counts_for_nothing() -> None:
    pace = Pace(interval_s=1.0)
    pace.step(now=100.0, samples=64, loss_sum=1.0, data_wait_s=5.0)

    assert pace.report(200.0) is None
    assert pace.eta_s(200.0, 1000) is None


def test_an_interval_is_reported_when_it_is_over_and_then_begins_anew() -> None:
    pace = Pace(interval_s=1.0)
    pace.step(now=10.0, samples=50, loss_sum=9.0, data_wait_s=0.0)
    pace.step(now=10.5, samples=50, loss_sum=100.0, data_wait_s=0.1)
    assert pace.report(10.99) is None
    pace.step(now=12.0, samples=50, loss_sum=50.0, data_wait_s=0.1)

    interval = pace.report(12.0)
    assert interval is not None
    assert interval.samples_per_second == pytest.approx(50)
    assert interval.data_wait_share == pytest.approx(0.1)
    assert interval.train_loss == pytest.approx(1.5)
    assert pace.report(14.0) is None


def test_the_estimate_is_at_the_mean_pace() -> None:
    pace = Pace(interval_s=1.0)
    for second in range(5):
        pace.step(now=float(second), samples=10, loss_sum=0.0, data_wait_s=0.0)
    assert pace.eta_s(4.0, 100) == pytest.approx(10.0)
    assert pace.eta_s(4.0, 0) == 0.0
