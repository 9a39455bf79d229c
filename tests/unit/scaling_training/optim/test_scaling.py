from __future__ import annotations

import pytest

from scaling_training.errors import UserError
from scaling_training.optim import ramped_factor, rate_factor


def test_linear_and_square_root() -> None:
    assert rate_factor("linear", batch=512, reference=128) == 4.0
    assert rate_factor("sqrt", batch=512, reference=128) == 2.0
    assert rate_factor("linear", batch=96, reference=128) == 0.75


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UserError, match="known are linear, sqrt"):
        rate_factor("cubic", batch=2, reference=1)


@pytest.mark.parametrize(("before", "after"), [(1.0, 3.0), (2.0, 1.0)], ids=["grown", "shrunk"])
def test_the_factor_goes_over_within_the_warm_up_and_stays(before: float, after: float) -> None:
    found = [ramped_factor(before, after, steps_since=step, warmup_steps=4) for step in range(6)]
    expected = [before + (after - before) * share for share in (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)]
    assert found == pytest.approx(expected)
    assert found[3] == after


def test_without_a_warm_up_it_is_there_at_once() -> None:
    assert ramped_factor(1.0, 3.0, steps_since=0, warmup_steps=0) == 3.0
