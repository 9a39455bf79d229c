"""Pauses between attempts."""

from __future__ import annotations

import pytest

from scaling_operator.decide.backoff import LONGEST_PAUSE_S, is_exhausted, pause_after


@pytest.mark.parametrize(
    ("failures", "pause_s"),
    [
        pytest.param(0, 0.0, id="nothing has failed"),
        pytest.param(1, 0.0, id="the first failure is followed at once"),
        pytest.param(2, 10.0, id="the second one after the first pause"),
        pytest.param(3, 20.0, id="then it doubles"),
        pytest.param(6, 160.0, id="and doubles"),
        pytest.param(7, LONGEST_PAUSE_S, id="up to five minutes"),
        pytest.param(9999, LONGEST_PAUSE_S, id="also after very many"),
    ],
)
def test_pause(failures: int, pause_s: float) -> None:
    assert pause_after(failures) == pause_s


@pytest.mark.parametrize(
    ("failures", "limit", "exhausted"),
    [
        pytest.param(0, 0, False, id="nothing failed yet"),
        pytest.param(1, 0, True, id="no retries are wanted"),
        pytest.param(3, 3, False, id="as many failures as retries leave one attempt"),
        pytest.param(4, 3, True, id="one more ends it"),
    ],
)
def test_exhausted(failures: int, limit: int, exhausted: bool) -> None:
    assert is_exhausted(failures, limit) is exhausted
