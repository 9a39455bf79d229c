"""How fast training goes and when it will be done. Pure: the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """What happened since the last report."""

    samples_per_second: float
    data_wait_share: float  # of the time, spent waiting for data
    train_loss: float  # mean per sample


class Pace:
    """Counts the steps of one call of train(). Times are monotonic seconds."""

    def __init__(self, *, interval_s: float) -> None:
        self._interval_s = interval_s
        self._began: float | None = None
        self._samples_since_began = 0
        self._last = 0.0
        self._reset()

    def _reset(self) -> None:
        self._samples = 0
        self._loss_sum = 0.0
        self._data_wait_s = 0.0

    def step(self, *, now: float, samples: int, loss_sum: float, data_wait_s: float) -> None:
        """A step was done at ``now``. The first only starts the clock: it pays for what the others do not."""
        if self._began is None:
            self._began = self._last = now
            return
        self._samples += samples
        self._samples_since_began += samples
        self._loss_sum += loss_sum
        self._data_wait_s += data_wait_s

    def report(self, now: float) -> Interval | None:
        """What happened since the last report, at most every interval; None when it is too early."""
        elapsed = now - self._last
        if self._began is None or not self._samples or elapsed < self._interval_s:
            return None
        interval = Interval(
            samples_per_second=self._samples / elapsed,
            data_wait_share=min(1.0, self._data_wait_s / elapsed),
            train_loss=self._loss_sum / self._samples,
        )
        self._last = now
        self._reset()
        return interval

    def eta_s(self, now: float, samples_left: int) -> float | None:
        """Time for what is left at the mean pace so far, validation and saving included; None at the start."""
        if self._began is None or not self._samples_since_began:
            return None
        return (now - self._began) / self._samples_since_began * samples_left
