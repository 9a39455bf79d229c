"""Does anything advance? A driver that answers everybody may wait for ever: for storage, a data set, a lock.

What gets no further for STALLED_S is said in the reports, and no more than that: what hangs in training is ended by its
own watchdog (engine/watchdog.py), by limits that fit what it does. The time counts while this process runs, and has
nothing to do with who receives the reports.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable

from scaling_training.clock import Clock, duration
from scaling_training.progress.model import ProgressModel, Snapshot
from scaling_training.progress.show import ThreadedShow

log = logging.getLogger(__name__)

# As long as training may need for what it does for the first time.
STALLED_S = 600.0
LOOK_EVERY_S = 0.5
# What the clock counts at most between two looks.
LONGEST_S = 1.0


class Stall:
    """For how long a mark stays the same. ``now`` is a monotonic second; look every LOOK_EVERY_S."""

    def __init__(self, *, now: float) -> None:
        self._clock = Clock(now, LONGEST_S)
        self._mark: Hashable = None
        self._since = 0.0

    def idle_s(self, mark: Hashable, *, now: float) -> float:
        """Seconds of this process's own time since the mark changed."""
        time_s = self._clock.tick(now)
        if mark != self._mark:
            self._mark, self._since = mark, time_s
        return time_s - self._since


class StallWatch(ThreadedShow):
    """Tells the model when nothing advances, and when something does again."""

    def __init__(self, model: ProgressModel) -> None:
        super().__init__(model, name="stall-watch")

    def run(self) -> None:
        """Until the run ends."""
        stall = Stall(now=time.monotonic())
        while not self.closing.wait(LOOK_EVERY_S):
            snapshot = self.model.snapshot()
            idle_s = stall.idle_s(mark(snapshot), now=time.monotonic())
            if idle_s < STALLED_S:
                self.model.stalled(None)
            elif snapshot.stalled_since is None:
                log.warning("Nothing has advanced for %s", duration(idle_s))
                self.model.stalled(time.time() - idle_s)


def mark(snapshot: Snapshot) -> Hashable:
    """What changes whenever something advances: a stage, the share of it that is done, or a step of training."""
    training = snapshot.training
    stages = tuple((stage.state, stage.share) for stage in snapshot.stages)
    return stages, training and (training.workers, training.epoch, training.step, training.checkpoint)
