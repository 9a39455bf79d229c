"""Learning rates as pure functions of the optimizer step.

With T steps in all, W = warmupFraction * T, peak rate r, and step t = 0 .. T-1. All but one-cycle rise linearly
first, by the factor (t+1)/W while t+1 < W (Goyal et al. 2017). Then:

- constant: r.
- step: r * factor^k, with k the milestones that have passed, or the epochs done over everyEpochs.
- cosine: floor + (r - floor)/2 (1 + cos(pi (t-W)/(T-W))) (Loshchilov and Hutter 2017, without restarts).
- one-cycle: a half cosine from r/25 up to r at t = W-1, then one down to r/250,000 at t = T-1
  (Smith and Topin 2018; the same numbers as torch's OneCycleLR, whose momentum cycle is left out).
- plateau: r * factor^k, at least floor, with k the times that ``patience`` epochs in a row brought no better
  validation loss. k is counted anew from the rows of the curves, which every checkpoint holds.

A checkpoint holds nothing of this: the rate follows from the step and the rows. T depends on epochs, samples
and batch size, not on the number of processes, so a new world size changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from scaling_api.spec import ScheduleSpec
from scaling_training.registry import lookup, table

Row = Mapping[str, float | int]

_START_DIVISOR = 25.0
_END_DIVISOR = 1e4
_FACTOR = 0.1
_PATIENCE = 5
_THRESHOLD = 1e-4


@dataclass(frozen=True, slots=True)
class Moment:
    """What a rate can depend on. ``warmup`` is in steps; a fraction counts."""

    step: int
    warmup: float
    total: int
    steps_per_epoch: int
    history: Sequence[Row]

    @property
    def epochs_done(self) -> int:
        return self.step // self.steps_per_epoch


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """A schedule by name: the factor on the peak rate at a moment."""

    name: str
    description: str
    factor: Callable[[ScheduleSpec, Moment], float] = field(repr=False)


def _constant(spec: ScheduleSpec, at: Moment) -> float:
    return _rise(at)


def _step(spec: ScheduleSpec, at: Moment) -> float:
    if spec.every_epochs is not None:
        drops = at.epochs_done // spec.every_epochs
    else:
        drops = sum(milestone <= at.epochs_done for milestone in spec.milestones or ())
    return _rise(at) * _or(spec.factor, _FACTOR) ** drops


def _cosine(spec: ScheduleSpec, at: Moment) -> float:
    if (rising := _rise(at)) < 1.0:
        return rising
    return _between(1.0, spec.floor or 0.0, max(0.0, at.step - at.warmup) / (at.total - at.warmup))


def _one_cycle(spec: ScheduleSpec, at: Moment) -> float:
    start, end = 1.0 / _START_DIVISOR, 1.0 / _START_DIVISOR / _END_DIVISOR
    top = at.warmup - 1
    if at.step <= top:
        return _between(start, 1.0, at.step / top if top > 0 else 1.0)
    return _between(1.0, end, (at.step - top) / (at.total - 1 - top))


def _plateau(spec: ScheduleSpec, at: Moment) -> float:
    losses = [row["valLoss"] for row in at.history if "valLoss" in row]
    drops = plateaus(losses, patience=spec.patience or _PATIENCE, threshold=_or(spec.threshold, _THRESHOLD))
    return _rise(at) * max(spec.floor or 0.0, _or(spec.factor, _FACTOR) ** drops)


def plateaus(losses: Sequence[float], *, patience: int, threshold: float) -> int:
    """How often ``patience`` losses in a row were not lower than the best by more than the share ``threshold``.

    The count of losses begins anew after each time, the best stays. One that is infinite or no number is never the
    best. A loss may be below 0, as the negative log of a density is.
    """
    best, waited, found = math.inf, 0, 0
    for loss in losses:
        if math.isfinite(loss) and (best == math.inf or loss < best - threshold * abs(best)):
            best, waited = loss, 0
            continue
        waited += 1
        if waited == patience:
            waited, found = 0, found + 1
    return found


def _rise(at: Moment) -> float:
    return (at.step + 1) / at.warmup if at.step + 1 < at.warmup else 1.0


def _between(start: float, end: float, share: float) -> float:
    """Half a cosine from start to end."""
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * share))


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


SCHEDULES: Mapping[str, ScheduleRecord] = table(
    ScheduleRecord("constant", "the peak rate throughout", _constant),
    ScheduleRecord("step", "down by a factor at certain epochs", _step),
    ScheduleRecord("cosine", "half a cosine down to a floor", _cosine),
    ScheduleRecord("one-cycle", "a half cosine up to the peak, then one down to almost 0", _one_cycle),
    ScheduleRecord("plateau", "down by a factor when the validation loss has stopped falling", _plateau),
)


def learning_rate(
    spec: ScheduleSpec,
    *,
    peak: float,
    step: int,
    total_steps: int,
    steps_per_epoch: int,
    history: Sequence[Row],
) -> float:
    """The rate of step ``step`` (0-based) of ``total_steps``; UserError for an unknown schedule.

    ``history`` is the rows of the curves up to this step, one per epoch, the same on all processes; plateau
    reads their ``valLoss``.
    """
    record = lookup(SCHEDULES, spec.name, field="training.schedule.name")
    at = Moment(step, spec.warmup_fraction * total_steps, total_steps, steps_per_epoch, history)
    return peak * record.factor(spec, at)
