"""Metrics of the jobs, few series whatever their number: no label names a job.

They are read off the changes of status in the cache, which every replica sees; the leader
alone counts, so that replicas do not count the same twice.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry

from scaling_api.reasons import ConditionType

from .runtime.objects import Object
from .runtime.store import Change, Store

ATTEMPTS = Counter("scaling_attempts_total", "Attempts that ended", ["outcome", "reason"])
REPLACEMENTS = Counter("scaling_worker_replacements_total", "Worker pods replaced after a loss")
READY_SECONDS = Histogram(
    "scaling_job_cluster_ready_seconds",
    "Time from the start of an attempt until its cluster is ready",
    buckets=(1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800),
)

# A job that nobody has looked at yet.
NO_PHASE = "New"


class JobMetrics(Collector):
    """Watches `jobs` and counts what happens in them while `is_leading()`."""

    def __init__(self, jobs: Store, *, is_leading: Callable[[], bool], registry: CollectorRegistry = REGISTRY) -> None:
        self._jobs = jobs
        self._is_leading = is_leading
        jobs.add_handler(self.on_change)
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """For Prometheus: how many jobs are in each phase, by the leader's word alone."""
        family = GaugeMetricFamily("scaling_jobs", "Jobs by phase", labels=["phase"])
        if not self._is_leading():
            yield family
            return
        for phase, count in sorted(Tally(_phase(job) for job in self._jobs.values()).items()):
            family.add_metric([phase], count)
        yield family

    def on_change(self, change: Change, old: Object | None, new: Object | None) -> None:
        """Take in one change of the cache."""
        if old is None or new is None or not self._is_leading():
            return
        for outcome, reason in newly_ended(old, new):
            ATTEMPTS.labels(outcome, reason).inc()
        REPLACEMENTS.inc(newly_replaced(old, new))
        ready_s = newly_ready_after_s(old, new)
        if ready_s is not None:
            READY_SECONDS.observe(ready_s)


def newly_ended(old: Object, new: Object) -> Iterator[tuple[str, str]]:
    """(outcome, reason) of attempts that had not ended in `old`."""
    before = {attempt["number"] for attempt in _status(old).get("attempts") or [] if attempt.get("outcome")}
    for attempt in _status(new).get("attempts") or []:
        if attempt.get("outcome") and attempt["number"] not in before:
            yield attempt["outcome"], attempt.get("reason") or ""


def newly_replaced(old: Object, new: Object) -> int:
    """Workers lost from one to the other; 0 across attempts, where counting starts again."""
    if _status(old).get("attempt") != _status(new).get("attempt"):
        return 0
    before = _replaced(old)
    return sum(max(0, count - before.get(group, 0)) for group, count in _replaced(new).items())


def newly_ready_after_s(old: Object, new: Object) -> float | None:
    """Seconds from the attempt's start, if the cluster has just become ready for the first time in it."""
    if _ready_since(old) is not None or (ready_since := _ready_since(new)) is None:
        return None
    status = _status(new)
    # A cluster that lost workers and has them again is no start.
    if any(_replaced(new).values()):
        return None
    for attempt in status.get("attempts") or []:
        if attempt["number"] == status.get("attempt"):
            return max(0.0, (_moment(ready_since) - _moment(attempt["startedAt"])).total_seconds())
    return None


def _replaced(job: Object) -> dict[str, int]:
    return {group["name"]: group.get("replaced") or 0 for group in _status(job).get("workerGroups") or ()}


def _ready_since(job: Object) -> str | None:
    for condition in _status(job).get("conditions") or []:
        if condition["type"] == ConditionType.CLUSTER_READY and condition["status"] == "True":
            since: str = condition["lastTransitionTime"]
            return since
    return None


def _phase(job: Object) -> str:
    return str(_status(job).get("phase") or NO_PHASE)


def _status(job: Object) -> Object:
    status: Object = job.get("status") or {}
    return status


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
