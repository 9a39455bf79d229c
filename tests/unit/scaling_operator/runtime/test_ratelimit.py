from __future__ import annotations

import pytest

from scaling_operator.runtime.backoff import Backoff
from scaling_operator.runtime.ratelimit import RetryDelays, TokenBucket


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_its_burst_then_its_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(10, burst=3, clock=clock)
    assert [bucket.reserve() for _ in range(5)] == pytest.approx([0, 0, 0, 0.1, 0.2])
    clock.now = 0.3
    assert bucket.reserve() == pytest.approx(0.0)


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    clock = Clock()
    bucket = TokenBucket(10, burst=2, clock=clock)
    clock.now = 1000
    assert [bucket.reserve() for _ in range(3)] == pytest.approx([0, 0, 0.1])


def test_delays_double_up_to_a_limit_and_start_over_when_forgotten() -> None:
    delays = RetryDelays(base_s=1, max_s=5, clock=Clock())
    assert [delays.next_delay_s("a") for _ in range(4)] == [1, 2, 4, 5]
    assert delays.next_delay_s("b") == 1
    assert delays.failures("a") == 4
    delays.forget("a")
    assert delays.failures("a") == 0
    assert delays.next_delay_s("a") == 1


def test_a_key_that_fails_for_ever_waits_the_maximum() -> None:
    delays = RetryDelays(base_s=1, max_s=5, rate=1e9, clock=Clock())
    assert [delays.next_delay_s("a") for _ in range(2000)][-1] == 5


def test_many_failing_keys_share_a_rate() -> None:
    delays = RetryDelays(base_s=0.001, rate=10, burst=2, clock=Clock())
    waits = [delays.next_delay_s(key) for key in range(12)]
    assert waits[:2] == [0.001, 0.001]
    assert waits[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        pytest.param(0.0, [1, 2, 4, 5, 5], id="without jitter"),
        pytest.param(1.0, [0.5, 1, 2, 2.5, 2.5], id="with full jitter"),
    ],
)
def test_backoff_doubles_with_jitter_and_resets(unit: float, expected: list[float]) -> None:
    backoff = Backoff(base_s=1, max_s=5, random_unit=lambda: unit)
    assert [backoff.next_s() for _ in range(5)] == expected
    backoff.reset()
    assert backoff.next_s() == expected[0]
