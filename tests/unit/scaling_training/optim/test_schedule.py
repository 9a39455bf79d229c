from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from scaling_api.spec import ScheduleSpec
from scaling_training.optim import SCHEDULES, learning_rate
from scaling_training.optim.schedule import plateaus


def rates(
    name: Any,
    warmup: float,
    total: int,
    peak: float = 1.0,
    *,
    epoch: int = 1,
    losses: Sequence[float] = (),
    **more: Any,
) -> list[float]:
    """The rates of a run of epochs of ``epoch`` steps, with these validation losses."""
    spec = ScheduleSpec(name=name, warmup_fraction=warmup, **more)
    rows = [{"epoch": number, "valLoss": loss} for number, loss in enumerate(losses, start=1)]
    return [
        learning_rate(
            spec,
            peak=peak,
            step=step,
            total_steps=total,
            steps_per_epoch=epoch,
            history=rows[: step // epoch],
        )
        for step in range(total)
    ]


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


def test_cosine_with_a_floor_is_torchs() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.03)
    assert rates("cosine", 0.0, 20, peak=0.3, floor=0.1) == pytest.approx(torchs(optimizer, reference, 20), rel=1e-9)


def torchs(optimizer: torch.optim.Optimizer, reference: Any, total: int, losses: Sequence[float] = ()) -> list[float]:
    found = []
    for step in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < total - 1:
            reference.step(*losses[step : step + 1])
    return found


@pytest.mark.parametrize(("total", "warmup"), [(280, 0.3), (10, 0.5), (7, 0.25)])
def test_one_cycle_is_torchs(total: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.03, total_steps=total, pct_start=warmup, cycle_momentum=False
    )
    expected = torchs(optimizer, reference, total)
    assert rates("one-cycle", warmup, total, peak=0.03) == pytest.approx(expected, rel=1e-9)


def test_step_drops_after_its_milestones() -> None:
    # Three steps per epoch; in what order the milestones are written does not matter.
    found = rates("step", 0.0, 12, epoch=3, milestones=[3, 1], factor=0.5)
    assert found == pytest.approx([1.0] * 3 + [0.5] * 6 + [0.25] * 3)


def test_step_drops_every_so_many_epochs_by_a_tenth() -> None:
    assert rates("step", 0.0, 10, epoch=2, every_epochs=2) == pytest.approx([1.0] * 4 + [0.1] * 4 + [0.01] * 2)


def test_step_rises_first_too() -> None:
    found = rates("step", 0.5, 8, epoch=4, every_epochs=1, factor=0.5)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0] + [0.5] * 4)


@pytest.mark.parametrize("seed", range(5))
def test_plateau_is_torchs(seed: int) -> None:
    generator = random.Random(seed)
    losses = [1 / (1 + epoch) + generator.gauss(0, 0.05) for epoch in range(60)]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    # torch counts epochs above patience, here those that make it up.
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=2, threshold=0.01, min_lr=0.01, eps=0.0
    )
    found = rates("plateau", 0.0, 60, losses=losses, factor=0.5, patience=3, threshold=0.01, floor=0.01)
    assert found == pytest.approx(torchs(optimizer, reference, 60, losses), rel=1e-9)
    assert found[-1] < 0.1, "the case has plateaus"


def test_plateau_depends_on_the_rows_alone_so_a_resume_goes_on_with_it() -> None:
    assert plateaus([1.0, 1.0, 1.0, 0.5, 0.5], patience=2, threshold=0.0) == 1
    assert plateaus([1.0, 1.0, 1.0, 0.5, 0.5, 0.5], patience=2, threshold=0.0) == 2
    assert plateaus([3.0, 2.0, 1.0], patience=1, threshold=0.0) == 0
    assert plateaus([1.0, 0.95, 0.9], patience=2, threshold=0.2) == 1
    assert plateaus([], patience=1, threshold=0.0) == 0


def test_a_loss_that_is_no_number_is_never_the_best_of_a_plateau() -> None:
    nan, inf = float("nan"), float("inf")
    assert plateaus([nan, 3.0, 2.0, 1.0], patience=2, threshold=0.0) == 0
    assert plateaus([nan, -inf, 3.0, 2.0], patience=2, threshold=0.0) == 1, "but its epoch is waited for"
    assert plateaus([-inf, 3.0, 2.0, 1.0], patience=2, threshold=0.0) == 0


def test_a_loss_below_zero_falls_by_a_share_as_well() -> None:
    assert plateaus([-1.0, -1.05, -1.09], patience=2, threshold=0.1) == 1
    assert plateaus([-1.0, -1.2, -1.5], patience=1, threshold=0.1) == 0


def test_plateau_waits_for_a_validation() -> None:
    spec = ScheduleSpec(name="plateau", patience=1)
    rows = [{"epoch": 1, "trainLoss": 1.0}, {"epoch": 2, "trainLoss": 1.0}]
    assert learning_rate(spec, peak=0.5, step=2, total_steps=9, steps_per_epoch=1, history=rows) == 0.5


_NEEDED: dict[str, dict[str, Any]] = {"step": {"every_epochs": 1}}


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.01, 0.5, 0.9])
def test_a_run_of_very_few_steps_has_a_rate_too(name: str, total: int, warmup: float) -> None:
    assert all(0 <= rate <= 1 for rate in rates(name, warmup, total, **_NEEDED.get(name, {})))
