"""What a training tells of itself while it goes, whichever loop runs it: pace, metrics, the time that it took."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from scaling_training.train import preload
from scaling_training.train.history import Row
from scaling_training.train.pace import Pace
from scaling_training.train.saving import Keeper
from scaling_training.train.setup import Setup
from scaling_training.train.types import TrainingProgress, TrainOutcome, outcome_from_dict, outcome_to_dict
from scaling_training.world import World
from scaling_training.world.collectives import broadcast_bytes

INTERVAL_S = 1.0
# Of a row of the curves, what is no metric.
_NO_METRIC = ("epoch", "step", "seconds")

Observer = Callable[[TrainingProgress], None]


class Account:
    """Kept by rank 0. ``metrics`` are those of the next report; the loop may add to them."""

    def __init__(self, setup: Setup, keeper: Keeper, observer: Observer) -> None:
        self.metrics: dict[str, float] = {}
        self.first_step_at: float | None = None
        self._setup = setup
        self._keeper = keeper
        self._observer = observer
        self._pace = Pace(interval_s=INTERVAL_S)
        self._samples_per_second: float | None = None

    def stepped(self, *, samples: int, loss_sum: float, data_wait_s: float, gradient_norm: float | None = None) -> bool:
        """A step was done; True when it is time to report."""
        now = time.monotonic()
        first = self.first_step_at is None
        if first:
            self.first_step_at = time.time()
            if samples:
                self.metrics["trainLoss"] = loss_sum / samples
            preload.begin(preload.METRICS_MODULES)
        self._pace.step(now=now, samples=samples, loss_sum=loss_sum, data_wait_s=data_wait_s)
        interval = self._pace.report(now)
        if interval is not None:
            self._samples_per_second = interval.samples_per_second
            self.metrics["trainLoss"] = interval.train_loss
            self.metrics["dataWaitShare"] = interval.data_wait_share
            if gradient_norm is not None:
                self.metrics["gradientNorm"] = gradient_norm
        return first or interval is not None

    def closed(self, row: Row) -> None:
        """An epoch has its row of the curves."""
        self.metrics |= {name: value for name, value in row.items() if name not in _NO_METRIC}

    def report(self, *, epoch: int, step: int, steps_left: int, samples_left: int) -> None:
        """Tell the observer."""
        latest, best = self._keeper.latest, self._keeper.best
        self._observer(
            TrainingProgress(
                epoch=epoch,
                epochs=self._setup.spec.training.epochs,
                step=step,
                steps=step + steps_left,
                workers=self._setup.world.size,
                metrics=dict(self.metrics),
                objective=self._setup.objective,
                samples_per_second=self._samples_per_second,
                eta_s=self._pace.eta_s(time.monotonic(), samples_left),
                checkpoint=latest.folder if latest else None,
                best=best.folder if best else None,
                first_step_at=self.first_step_at,
            )
        )


class Stopwatch:
    """The seconds between two looks at it."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def lap_s(self) -> float:
        """Seconds since the last call, or since it was made."""
        before, self._since = self._since, time.monotonic()
        return self._since - before


def agreed(world: World, outcome: TrainOutcome | None) -> TrainOutcome:
    """Rank 0's outcome on every rank; the others pass None."""
    known = None if outcome is None else json.dumps(outcome_to_dict(outcome)).encode()
    return outcome_from_dict(json.loads(broadcast_bytes(world, known)))
