from __future__ import annotations

from typing import Any

from scaling_api.driver import ProgressReport
from scaling_operator.server.limits import ReportLimits


def report(stage: str = "train", **changes: Any) -> ProgressReport:
    body = {"attempt": 1, "progress": {"stage": stage, "updatedAt": "2030-01-01T00:00:00Z"}} | changes
    return ProgressReport.model_validate(body)


def send(limits: ReportLimits, at: float, of: ProgressReport) -> bool:
    taken = limits.wait_s("job", of, at) == 0
    if taken:
        limits.accepted("job", of)
    return taken


def test_progress_may_come_every_five_seconds_for_ever() -> None:
    limits = ReportLimits()
    assert all(send(limits, at, report()) for at in range(0, 500, 5))


def test_too_many_reports_are_put_off_until_there_is_room() -> None:
    limits = ReportLimits()
    taken = [send(limits, 0.0, report()) for _ in range(6)]
    # The first is news; then come the three that may come at once.
    assert taken == [True, True, True, True, False, False]
    wait_s = limits.wait_s("job", report(), 0.0)
    assert 0 < wait_s <= 5
    assert send(limits, wait_s + 0.01, report())


def test_news_passes_when_progress_is_put_off() -> None:
    limits = ReportLimits()
    while send(limits, 0.0, report()):
        pass
    assert send(limits, 0.0, report("evaluate"))
    assert send(limits, 0.0, report("evaluate", stages=[{"name": "train", "state": "Succeeded"}]))
    assert send(limits, 0.0, report("evaluate", result={"metrics": {"accuracy": 1.0}}))
    assert not all(send(limits, 0.0, report("evaluate")) for _ in range(4))


def test_news_that_was_not_stored_is_still_news() -> None:
    limits = ReportLimits()
    while send(limits, 0.0, report()):
        pass
    assert limits.wait_s("job", report("evaluate"), 0.0) == 0
    assert limits.wait_s("job", report("evaluate"), 0.0) == 0


def test_news_without_end_is_put_off_too() -> None:
    limits = ReportLimits()
    taken = [send(limits, 0.0, report(f"stage-{index}")) for index in range(100)]
    assert 10 < sum(taken) < 30


def test_jobs_do_not_share_their_limits() -> None:
    limits = ReportLimits()
    while send(limits, 0.0, report()):
        pass
    assert limits.wait_s("other", report(), 0.0) == 0
