from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from scaling_operator import job_metrics
from scaling_operator.job_metrics import JobMetrics, newly_ended, newly_ready_after_s, newly_replaced
from scaling_operator.runtime.store import Store


def job(name: str = "a", version: int = 1, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "n", "resourceVersion": str(version)}, "status": status}


def ready(since: str | None, **status: Any) -> dict[str, Any]:
    condition = {"type": "ClusterReady", "status": "True" if since else "False", "lastTransitionTime": since or "-"}
    attempts = [{"number": 2, "startedAt": "2030-01-01T00:00:00Z"}]
    return job(attempt=2, attempts=attempts, conditions=[condition], **status)


def lost(**groups: int) -> dict[str, Any]:
    return {"attempt": 1, "workerGroups": [{"name": name, "replaced": count} for name, count in groups.items()]}


def test_an_attempt_is_counted_when_its_outcome_appears() -> None:
    running, failed = {"number": 1}, {"number": 1, "outcome": "Failed", "reason": "NodeLost"}
    assert list(newly_ended(job(attempts=[running]), job(attempts=[failed]))) == [("Failed", "NodeLost")]
    assert list(newly_ended(job(attempts=[failed]), job(attempts=[failed, {"number": 2}]))) == []
    assert list(newly_ended(job(), job())) == []


@pytest.mark.parametrize(
    ("old", "new", "count"),
    [
        pytest.param(lost(), lost(w=1, v=1), 2, id="two lost"),
        pytest.param(lost(w=1), lost(w=3), 2, id="again"),
        pytest.param(lost(w=4), {"attempt": 2}, 0, id="new attempt"),
        pytest.param(lost(w=1), {**lost(w=1), "incarnations": {"w-0": 1, "w-1": 2}}, 0, id="scaled down and up"),
        pytest.param({"attempt": 1}, {"attempt": 1}, 0, id="nothing"),
    ],
)
def test_newly_replaced(old: dict[str, Any], new: dict[str, Any], count: int) -> None:
    assert newly_replaced(job(**old), job(**new)) == count


@pytest.mark.parametrize(
    ("old", "new", "seconds"),
    [
        pytest.param(ready(None), ready("2030-01-01T00:00:09Z"), 9.0, id="became ready"),
        pytest.param(job(), ready("2030-01-01T00:00:09Z"), 9.0, id="first seen together"),
        pytest.param(ready("2030-01-01T00:00:09Z"), ready("2030-01-01T00:00:09Z"), None, id="was ready"),
        pytest.param(ready(None), ready(None), None, id="not ready"),
        pytest.param(
            ready(None),
            ready("2030-01-01T00:10:00Z", workerGroups=lost(w=1)["workerGroups"]),
            None,
            id="ready again after a loss",
        ),
    ],
)
def test_newly_ready_after_s(old: dict[str, Any], new: dict[str, Any], seconds: float | None) -> None:
    assert newly_ready_after_s(old, new) == seconds


async def test_jobs_are_counted_by_phase_as_they_come_change_and_go() -> None:
    store, registry = Store("metrics-phases"), CollectorRegistry()
    leading = True
    JobMetrics(store, is_leading=lambda: leading, registry=registry)

    def phases() -> dict[str, float]:
        (family,) = registry.collect()
        return {sample.labels["phase"]: sample.value for sample in family.samples}

    store.apply("ADDED", job("a", 1))
    store.apply("ADDED", job("b", 2, phase="Running"))
    assert phases() == {"New": 1, "Running": 1}
    store.apply("MODIFIED", job("a", 3, phase="Running"))
    assert phases() == {"Running": 2}
    store.apply("DELETED", job("b", 4, phase="Failed"))
    assert phases() == {"Running": 1}
    leading = False
    assert phases() == {}


@pytest.mark.parametrize("leading", [True, False])
async def test_only_the_leader_counts(leading: bool) -> None:
    store = Store(f"metrics-leading-{leading}")
    JobMetrics(store, is_leading=lambda: leading, registry=CollectorRegistry())
    before = job_metrics.REPLACEMENTS._value.get()
    store.apply("ADDED", job("a", 1, attempt=1))
    store.apply("MODIFIED", job("a", 2, **lost(w=1)))
    assert job_metrics.REPLACEMENTS._value.get() - before == (1 if leading else 0)
