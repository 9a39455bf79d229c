from __future__ import annotations

import pytest
import torch
from torch import nn

from scaling_training.optim.ema import Ema


def moved(values: list[float], decay: float) -> tuple[nn.Linear, Ema]:
    """A model whose one weight took these values after steps 1, 2, …, and its average."""
    model = nn.Linear(1, 1, bias=False)
    ema = Ema(model, decay)
    for step, value in enumerate(values, start=1):
        with torch.no_grad():
            model.weight.fill_(value)
        ema.update(step)
    return model, ema


def test_the_average_weighs_the_steps_by_powers_of_the_decay() -> None:
    _, ema = moved([1.0, 5.0, 2.0], 0.5)
    expected = (0.25 * 1.0 + 0.5 * 5.0 + 1.0 * 2.0) / (0.25 + 0.5 + 1.0)
    assert ema.state_dict()["weight"].item() == pytest.approx(expected)


def test_the_weights_of_before_the_first_step_take_no_part() -> None:
    _, ema = moved([3.0], 0.999)
    assert ema.state_dict()["weight"].item() == pytest.approx(3.0)


def test_swapped_shows_the_averages_and_puts_the_weights_back_even_after_an_error() -> None:
    model, ema = moved([1.0, 5.0], 0.5)
    storage = model.weight.data_ptr()
    seen = []
    try:
        with ema.swapped():
            seen.append((model.weight.item(), model.weight.data_ptr()))
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        seen.append((model.weight.item(), model.weight.data_ptr()))
    assert seen == [(pytest.approx(11 / 3), storage), (5.0, storage)]
    assert model.weight.item() == 5.0
    assert ema.state_dict()["weight"].item() == pytest.approx(11 / 3)


def test_a_loaded_average_goes_on_as_if_nothing_had_happened() -> None:
    _, straight = moved([1.0, 5.0, 2.0], 0.9)
    _, first = moved([1.0, 5.0], 0.9)
    model, resumed = moved([], 0.9)
    resumed.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    with torch.no_grad():
        model.weight.fill_(2.0)
    resumed.update(3)
    assert torch.equal(resumed.state_dict()["weight"], straight.state_dict()["weight"])


def test_running_statistics_are_averaged_and_counters_are_not() -> None:
    model = nn.BatchNorm1d(2)
    ema = Ema(model, 0.9)
    assert set(ema.state_dict()) == {"weight", "bias", "running_mean", "running_var"}


def test_another_models_averages_are_refused() -> None:
    _, ema = moved([1.0], 0.9)
    with pytest.raises(ValueError, match="bias is in only one of them"):
        ema.load_state_dict({"weight": torch.zeros(1, 1), "bias": torch.zeros(1)})


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Ema(nn.Linear(1, 1), decay)
