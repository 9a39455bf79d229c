from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest
import torch

from scaling_training.evaluate.overfitting import noise, overfitting_onset, smooth


def rows(losses: Sequence[float]) -> list[dict[str, float | int]]:
    return [{"epoch": epoch, "valLoss": loss} for epoch, loss in enumerate(losses, start=1)]


def onset(losses: Sequence[float]) -> int | None:
    return overfitting_onset(rows(losses))


def curve(function: Callable[[int], float], epochs: int, sigma: float = 0.0, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [function(epoch) + generator.gauss(0, sigma) for epoch in range(1, epochs + 1)]


def falling(epoch: int) -> float:
    return 0.3 + math.exp(-epoch / 8)


def turning(at: int) -> Callable[[int], float]:
    """Falls to its minimum at this epoch, then rises."""
    return lambda epoch: 0.5 + 0.02 * abs(epoch - at)


def with_spike(losses: list[float], epoch: int, by: float) -> list[float]:
    return [loss + by * (index == epoch) for index, loss in enumerate(losses, start=1)]


def test_a_loss_that_turns_overfits_from_its_minimum() -> None:
    assert onset(curve(turning(9), 25)) == 9


def test_a_fall_much_flatter_than_the_rise_moves_the_smoothed_minimum_by_one_epoch() -> None:
    losses = [0.5 + 0.004 * (epoch - 9) ** 2 if epoch < 9 else 0.5 + 0.02 * (epoch - 9) for epoch in range(1, 26)]
    assert onset(losses) == 8


def test_a_loss_that_rises_from_the_start_overfits_from_the_first_epoch() -> None:
    assert onset([1.0, 1.1, 1.2, 1.3, 1.4, 1.5]) == 1


@pytest.mark.parametrize("seed", range(20))
def test_noise_moves_the_onset_little(seed: int) -> None:
    found = onset(curve(turning(12), 40, sigma=0.02, seed=seed))
    assert found is not None
    assert abs(found - 12) <= 4


def test_a_falling_loss_does_not_overfit() -> None:
    assert onset(curve(falling, 40)) is None


@pytest.mark.parametrize("sigma", [0.0, 0.001, 0.03, 0.2])
def test_a_plateau_does_not_overfit_however_noisy(sigma: float) -> None:
    found = [onset(curve(lambda epoch: 1.0, epochs, sigma, seed)) for seed in range(100) for epochs in (8, 20, 100)]
    assert sum(answer is not None for answer in found) <= 6, "of 300"


@pytest.mark.parametrize("epoch", [1, 2, 20, 38, 39, 40])
def test_a_single_spike_anywhere_changes_nothing(epoch: int) -> None:
    assert onset(with_spike(curve(falling, 40), epoch, 5.0)) is None
    assert onset(with_spike(curve(turning(15), 40), epoch, 5.0)) == 15


def test_a_single_dip_is_not_the_onset() -> None:
    assert onset(with_spike(curve(turning(15), 40), 30, -0.9)) == 15


def test_a_late_onset_is_found_as_soon_as_the_rise_is_confirmed() -> None:
    losses = curve(turning(30), 40)
    answers = [onset(losses[:epochs]) for epochs in range(1, 41)]
    first = next(epochs for epochs, answer in enumerate(answers, start=1) if answer is not None)
    assert 33 <= first <= 35
    assert set(answers[:32]) == {None}
    assert set(answers[first - 1 :]) == {30}


def test_a_loss_that_came_back_down_does_not_overfit() -> None:
    assert onset([*curve(turning(8), 14), *(0.5 - 0.01 * epoch for epoch in range(10))]) is None


def test_a_rise_within_two_percent_is_none() -> None:
    assert onset([2.0, 1.0, 0.5, 0.505, 0.506, 0.507, 0.508]) is None


@pytest.mark.parametrize("epochs", range(5))
def test_too_few_epochs_tell_nothing(epochs: int) -> None:
    assert onset([1.0, 1.5, 2.0, 2.5][:epochs]) is None


def test_epochs_without_a_validation_are_left_out() -> None:
    every_second = [{"epoch": 2 * epoch, "valLoss": loss} for epoch, loss in enumerate(curve(turning(9), 25), start=1)]
    between = [{"epoch": 2 * epoch - 1, "trainLoss": 1.0} for epoch in range(1, 26)]
    merged = sorted([*every_second, *between], key=lambda row: row["epoch"])
    assert overfitting_onset(merged) == 18


@pytest.mark.parametrize("value", [math.nan, -math.inf], ids=str)
def test_a_loss_that_is_no_number_is_no_minimum(value: float) -> None:
    losses = [1.0 + 0.01 * (epoch - 6) ** 2 for epoch in range(1, 15)]
    rows: list[dict[str, float | int]] = [
        {"epoch": epoch, "valLoss": loss} for epoch, loss in enumerate([value, *losses])
    ]
    assert overfitting_onset(rows) == overfitting_onset(rows[1:]) == 6


def test_a_loss_below_zero_must_rise_as_well() -> None:
    falling = [-1.0 - 0.1 * epoch for epoch in range(12)]
    rows: list[dict[str, float | int]] = [{"epoch": epoch, "valLoss": loss} for epoch, loss in enumerate(falling)]
    assert overfitting_onset(rows) is None
    level = [-2.0, -3.0, -4.0, -3.99, -3.98, -3.99, -3.98, -3.99]
    rows = [{"epoch": epoch, "valLoss": loss} for epoch, loss in enumerate(level)]
    assert overfitting_onset(rows) is None, "a rise within two percent"


def test_the_smoothing_keeps_a_line_but_for_its_ends() -> None:
    assert smooth([1.0, 2.0, 3.0, 4.0, 5.0])[2] == 3.0
    assert len(smooth([1.0])) == 1


def test_the_noise_is_its_standard_deviation() -> None:
    losses = curve(falling, 2000, sigma=0.05)
    assert noise(losses) == pytest.approx(0.05, rel=0.1)


def trained(samples: int, epochs: int) -> list[dict[str, float | int]]:
    """The curves of a wide network that learns this many handwritten digits by heart, or the rest of them too."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs = torch.tensor(digits.data, dtype=torch.float32) / 16
    targets = torch.tensor(digits.target)
    # Some labels are wrong: what is learned of them by heart does not carry over.
    generator = torch.Generator().manual_seed(0)
    wrong = torch.randint(0, 10, (len(targets),), generator=generator)
    targets = torch.where(torch.rand(len(targets), generator=generator) < 0.2, wrong, targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loss_of = torch.nn.functional.cross_entropy
    found: list[dict[str, float | int]] = []
    for epoch in range(1, epochs + 1):
        for batch in torch.split(torch.randperm(samples, generator=generator), 32):
            optimizer.zero_grad()
            loss_of(model(inputs[batch]), targets[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            train = loss_of(model(inputs[:samples]), targets[:samples]).item()
            validation = loss_of(model(inputs[1200:]), targets[1200:]).item()
        found.append({"epoch": epoch, "trainLoss": train, "valLoss": validation})
    return found


def test_a_network_that_learns_a_few_digits_by_heart_is_seen_to_overfit() -> None:
    found = trained(samples=120, epochs=60)
    start = overfitting_onset(found)
    assert start is not None
    assert 3 <= start <= 40
    assert found[-1]["trainLoss"] < found[start - 1]["trainLoss"] / 2, "training went on getting better"
    assert found[-1]["valLoss"] > found[start - 1]["valLoss"] * 1.1
    assert overfitting_onset(found[:start]) is None, "not yet"
