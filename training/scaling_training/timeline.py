"""When this attempt passed which point, so that the way to the first step can be measured and cut."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime

from scaling_training.clock import process_started_at


class Timeline:
    """Points in time, each kept as first noted; any thread may note one."""

    def __init__(self, started_at: float | None = None) -> None:
        self.started_at = process_started_at() if started_at is None else started_at
        self._lock = threading.Lock()
        self._marks: dict[str, float] = {}

    def mark(self, name: str, at: float | None = None) -> None:
        """Note a point; ``at`` is Unix time, now when absent."""
        with self._lock:
            self._marks.setdefault(name, time.time() if at is None else at)

    def to_bytes(self) -> bytes:
        """As JSON: seconds since the start of the driver's process, in order of time."""
        with self._lock:
            marks = sorted(self._marks.items(), key=lambda item: item[1])
        seconds = {name: round(at - self.started_at, 3) for name, at in marks}
        started_at = datetime.fromtimestamp(self.started_at, UTC).isoformat(timespec="milliseconds")
        return json.dumps({"startedAt": started_at, "seconds": seconds}, indent=1).encode()
