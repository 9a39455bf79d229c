from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from scaling_api.spec import ScheduleSpec
from scaling_training.optim import SCHEDULES, learning_rate


def rates(name: Any, warmup: float, total: int, peak: float = 1.0) -> list[float]:
    spec = ScheduleSpec(name=name, warmup_fraction=warmup)
    return [learning_rate(spec, peak=peak, step=step, total_steps=total) for step in range(total)]


def test_constant_stays() -> None:
    assert rates("constant", 0.0, 5, peak=0.3) == [0.3] * 5


def test_constant_rises_linearly_first() -> None:
    assert rates("constant", 0.4, 10) == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 7)


def test_cosine_falls_by_half_a_cosine() -> None:
    assert rates("cosine", 0.0, 4) == pytest.approx([(1 + math.cos(math.pi * t / 4)) / 2 for t in range(4)])


def test_cosine_rises_first_and_peaks_at_the_end_of_the_rise() -> None:
    found = rates("cosine", 0.4, 10)
    assert found[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert found[7] == pytest.approx(0.5)


@pytest.mark.parametrize(("total", "warmup"), [(280, 0.3), (10, 0.5), (7, 0.25)])
def test_one_cycle_is_torchs(total: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.03, total_steps=total, pct_start=warmup, cycle_momentum=False
    )
    expected = []
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step() if len(expected) < total else None
    assert rates("one-cycle", warmup, total, peak=0.03) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.01, 0.5, 0.9])
def test_a_run_of_very_few_steps_has_a_rate_too(name: str, total: int, warmup: float) -> None:
    assert all(0 <= rate <= 1 for rate in rates(name, warmup, total))
