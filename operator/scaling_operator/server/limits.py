"""How often a job may report: each report is a write to etcd.

Two token buckets per job: one for plain progress, and a larger one for news (a stage began or ended, the result
came), which must not wait behind the former. User code runs in the same pod as the driver, so news is bounded too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

from scaling_api.driver import PROGRESS_INTERVAL_S, ProgressReport

MAX_JOBS = 10_000


@dataclass(slots=True)
class _Bucket:
    """`burst` reports at once, then one every `interval_s`."""

    burst: float
    interval_s: float
    level: float = field(init=False)
    filled_at: float = float("-inf")

    def __post_init__(self) -> None:
        self.level = self.burst

    def wait_s(self, now: float) -> float:
        """Take one; 0 when there was one, else the seconds until there is."""
        elapsed_s = max(0.0, now - self.filled_at)
        self.level = min(self.burst, self.level + elapsed_s / self.interval_s)
        self.filled_at = now
        if self.level >= 1:
            self.level -= 1
            return 0.0
        return (1 - self.level) * self.interval_s


@dataclass(slots=True)
class _Job:
    # Half the interval that drivers keep: their clocks and retries need some room.
    progress: _Bucket = field(default_factory=lambda: _Bucket(burst=3, interval_s=PROGRESS_INTERVAL_S / 2))
    news: _Bucket = field(default_factory=lambda: _Bucket(burst=20, interval_s=1.0))
    accepted: Hashable = None


class ReportLimits:
    """The buckets of all jobs that report to this replica."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[Hashable, _Job] = OrderedDict()

    def wait_s(self, key: Hashable, report: ProgressReport, now: float) -> float:
        """0 when the report may be taken; else the seconds after which to try again."""
        job = self._jobs.setdefault(key, _Job())
        self._jobs.move_to_end(key)
        while len(self._jobs) > MAX_JOBS:
            self._jobs.popitem(last=False)
        bucket = job.progress if _news(report) == job.accepted else job.news
        return bucket.wait_s(now)

    def accepted(self, key: Hashable, report: ProgressReport) -> None:
        """The report was stored: what it told is no news any more."""
        if key in self._jobs:
            self._jobs[key].accepted = _news(report)


def _news(report: ProgressReport) -> Hashable:
    stage = report.progress.stage if report.progress is not None else None
    return (
        report.attempt,
        stage,
        tuple((entry.name, entry.state) for entry in report.stages),
        report.result is not None,
    )
