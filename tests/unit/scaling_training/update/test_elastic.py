"""Batch and rate by the number of workers."""

from __future__ import annotations

from typing import Any

import pytest

from scaling_api.update import ElasticSpec
from scaling_training.update.elastic import Resize, effective_batch, effective_factor, resized, schedule_step

EPOCH = 1000  # samples


def a_spec(**fields: Any) -> ElasticSpec:
    return ElasticSpec.model_validate({"batch": "perWorker", "referenceWorkers": 4, "warmupEpochs": 0.5, **fields})


def factor(spec: ElasticSpec, last: Resize, cursor: int) -> float:
    return effective_factor(spec, batch_size=40, last=last, cursor=cursor, samples_per_epoch=EPOCH)


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        pytest.param(4, 40, id="the reference"),
        pytest.param(8, 80, id="twice as many"),
        pytest.param(3, 30, id="one lost"),
        pytest.param(1, 10, id="one left"),
    ],
)
def test_each_worker_keeps_its_samples(workers: int, expected: int) -> None:
    assert effective_batch(a_spec(), batch_size=40, workers=workers) == expected
    assert effective_batch(ElasticSpec(), batch_size=40, workers=workers) == 40


def test_a_reference_that_does_not_divide_the_batch_is_right_at_itself_and_nobody_stands_idle() -> None:
    assert effective_batch(a_spec(referenceWorkers=3), batch_size=40, workers=3) == 40
    assert effective_batch(a_spec(referenceWorkers=100), batch_size=1, workers=7) == 7


@pytest.mark.parametrize(("rule", "expected"), [("linear", 2.0), ("sqrt", 2.0**0.5)])
def test_the_rate_follows_by_the_rule_within_the_warm_up(rule: str, expected: float) -> None:
    spec = a_spec(rateRule=rule)
    first = resized(spec, None, workers=4, batch_size=40, cursor=0, samples_per_epoch=EPOCH)
    assert first == Resize(4, 0, 1.0)
    assert factor(spec, first, 500) == 1.0

    grown = resized(spec, first, workers=8, batch_size=40, cursor=600, samples_per_epoch=EPOCH)
    assert grown == Resize(8, 600, 1.0)
    # Half an epoch in batches of 80 is six steps.
    factors = [factor(spec, grown, 600 + 80 * step) for step in range(8)]
    assert factors == pytest.approx([1 + (expected - 1) * min(1, (step + 1) / 6) for step in range(8)])


def test_a_resize_within_a_warm_up_goes_on_from_what_was_reached() -> None:
    spec = a_spec()
    grown = Resize(8, 600, 1.0)
    again = resized(spec, grown, workers=2, batch_size=40, cursor=760, samples_per_epoch=EPOCH)
    assert again.workers == 2
    assert again.factor == factor(spec, grown, 760)
    assert 1.0 < again.factor < 2.0
    assert factor(spec, again, 760 + 20 * 100) == 0.5
    assert resized(spec, again, workers=2, batch_size=40, cursor=900, samples_per_epoch=EPOCH) is again


def test_a_constant_batch_has_a_constant_rate() -> None:
    spec = ElasticSpec()
    last = resized(spec, None, workers=3, batch_size=40, cursor=0, samples_per_epoch=EPOCH)
    last = resized(spec, last, workers=9, batch_size=40, cursor=500, samples_per_epoch=EPOCH)
    assert [factor(spec, last, cursor) for cursor in (500, 540, 5000)] == [1.0] * 3


def test_the_steps_of_a_schedule_are_those_of_the_reference_batch() -> None:
    # 26 batches an epoch, the last of 25 samples: 0, 40, 80, …, 960, 1000 is the next epoch's first.
    def at(cursor: int) -> int:
        return schedule_step(cursor, samples_per_epoch=1001, batch_size=40)

    assert [at(cursor) for cursor in (0, 39, 40, 999, 1000, 1001, 1041)] == [0, 0, 1, 24, 25, 26, 27]
