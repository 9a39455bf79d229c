"""Learning rates as pure functions of the optimizer step.

With T steps in all, W = warmupFraction * T, peak rate r, and step t = 0 .. T-1:

- constant: r, after a linear rise r (t+1)/W while t+1 < W (Goyal et al. 2017).
- cosine: the same rise, then r/2 (1 + cos(pi (t-W)/(T-W))) (Loshchilov and Hutter 2017, without restarts).
- one-cycle: a half cosine from r/25 up to r at t = W-1, then one down to r/250,000 at t = T-1
  (Smith and Topin 2018; the same numbers as torch's OneCycleLR, whose momentum cycle is left out).

A checkpoint holds nothing of this: the rate follows from the step. T depends on epochs, samples and batch
size, not on the number of processes, so a new world size changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from scaling_api.spec import ScheduleSpec
from scaling_training.registry import lookup, table

_START_DIVISOR = 25.0
_END_DIVISOR = 1e4


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """A schedule by name: the factor on the peak rate, from step, warm-up steps (a fraction counts) and all steps."""

    name: str
    description: str
    factor: Callable[[int, float, int], float] = field(repr=False)


def _rise(step: int, warmup: float) -> float | None:
    return (step + 1) / warmup if step + 1 < warmup else None


def _constant(step: int, warmup: float, total: int) -> float:
    rising = _rise(step, warmup)
    return 1.0 if rising is None else rising


def _cosine(step: int, warmup: float, total: int) -> float:
    rising = _rise(step, warmup)
    return _between(1.0, 0.0, max(0.0, step - warmup) / (total - warmup)) if rising is None else rising


def _one_cycle(step: int, warmup: float, total: int) -> float:
    start, end = 1.0 / _START_DIVISOR, 1.0 / _START_DIVISOR / _END_DIVISOR
    top = warmup - 1
    if step <= top:
        return _between(start, 1.0, step / top if top > 0 else 1.0)
    return _between(1.0, end, (step - top) / (total - 1 - top))


def _between(start: float, end: float, share: float) -> float:
    """Half a cosine from start to end."""
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * share))


SCHEDULES: Mapping[str, ScheduleRecord] = table(
    ScheduleRecord("constant", "the peak rate throughout", _constant),
    ScheduleRecord("cosine", "half a cosine down to 0", _cosine),
    ScheduleRecord("one-cycle", "a half cosine up to the peak, then one down to almost 0", _one_cycle),
)


def learning_rate(spec: ScheduleSpec, *, peak: float, step: int, total_steps: int) -> float:
    """The rate of step ``step`` (0-based) of ``total_steps``; UserError for an unknown schedule."""
    record = lookup(SCHEDULES, spec.name, field="training.schedule.name")
    return peak * record.factor(step, spec.warmup_fraction * total_steps, total_steps)
