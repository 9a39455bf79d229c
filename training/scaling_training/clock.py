"""Times as people and Kubernetes read them, and the time of one who watches others."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path


def utc(at: float | None = None) -> str:
    """RFC 3339 in UTC with whole seconds; ``at`` is Unix time, now when absent."""
    moment = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def process_started_at() -> float:
    """Unix time at which this process was created: what came before `main` counts as start-up, too."""
    try:
        # Field 22 of proc(5) stat, in clock ticks since boot; the name in brackets before may hold spaces.
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return time.time()
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - (uptime - ticks / os.sysconf("SC_CLK_TCK"))


def duration(seconds: float) -> str:
    """12s, 3m, 2h 5m: for people."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes}m"
    return f"{minutes // 60}h {minutes % 60}m"


class Clock:
    """Time that passes only while the watching process runs: at most ``longest_s`` between two looks.

    So one that was stopped, or had no CPU, does not take its own absence for that of those it watches.
    """

    def __init__(self, now: float, longest_s: float) -> None:
        self._last = now
        self._longest_s = longest_s
        self._time = 0.0

    def tick(self, now: float) -> float:
        """The time, at monotonic second ``now``."""
        self._time += min(max(0.0, now - self._last), self._longest_s)
        self._last = now
        return self._time
