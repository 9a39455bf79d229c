"""The curves: one row per epoch, as JSON lines.

The rows travel inside each checkpoint, so a resume goes on from exactly those that belong to it and no epoch
appears twice. The copy under ``curves/`` is what people and the report read while training runs; it is
written whole, because object stores cannot append.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

Row = Mapping[str, float | int]


def history_name(attempt: int) -> str:
    """Where an attempt's curves lie in the run folder."""
    return f"curves/attempt-{attempt:04d}.jsonl"


def dump_rows(rows: Iterable[Row]) -> bytes:
    """As JSON lines."""
    return "".join(json.dumps(dict(row)) + "\n" for row in rows).encode()


def parse_rows(data: bytes) -> list[Row]:
    """The inverse of `dump_rows`."""
    return [json.loads(line) for line in data.decode().splitlines() if line]
