"""Settings of all tests."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.outcome import FAILED

IN_CI = bool(os.environ.get("CI"))

# Nothing is timed, and a slow machine is no finding. Where CI is set, the same examples run each time: a new finding
# should not stop another's change.
settings.register_profile("project", deadline=None, derandomize=IN_CI, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skip is a failure: what a test wants is there, or is to be put there."""
    report = yield
    if report.failed and call.when == "call":
        item.stash[FAILED] = True
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which proves nothing: {report.longrepr}"
    return report
