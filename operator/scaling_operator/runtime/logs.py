"""Structured logs on stderr: one JSON object per line, or readable lines on a terminal.

Fields that belong to everything done in a context (which job, which attempt) are bound once with `bound` and
follow through awaits and into tasks started meanwhile, as they live in a context variable. Whatever looks
like a bearer token or a JWT is blanked out in every record, tracebacks included.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import IO, Any, Literal

import orjson

LogFormat = Literal["auto", "json", "text"]

_bound: ContextVar[Mapping[str, Any]] = ContextVar("bound_log_fields", default={})  # noqa: B039  # never mutated

_STANDARD_ATTRIBUTES = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message",
    "asctime",
    "taskName",
}
_SECRETS = re.compile(
    r"(?P<scheme>\b(?:bearer|basic)\s+)[A-Za-z0-9\-._~+/]{8,}=*"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*",
    re.IGNORECASE,
)


@contextlib.contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Add `fields` to every record logged inside the block, on top of those bound outside it."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def redact(text: str) -> str:
    """`text` without bearer tokens, basic credentials and JWTs."""
    return _SECRETS.sub(lambda match: f"{match['scheme'] or ''}[redacted]", text)


class JsonFormatter(logging.Formatter):
    """One JSON object per record: ts, level, logger, msg, bound fields, `extra` fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "ts": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return redact(orjson.dumps(entry, default=str).decode())


class TextFormatter(logging.Formatter):
    """The same record for a person: time, level, message, fields as key=value, then the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in fields_of(record).items())
        line = f"{_timestamp(record)} {record.levelname:<7} {record.name}: {record.getMessage()}"
        if fields:
            line += f"  {fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redact(line)


def configure_logging(level: str = "INFO", *, log_format: LogFormat = "auto", stream: IO[str] | None = None) -> None:
    """Send all records from `level` on to `stream` (stderr); "auto" is text on a terminal, else JSON."""
    stream = stream if stream is not None else sys.stderr
    as_text = log_format == "text" or (log_format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The bound fields of the present context and the `extra` ones of `record`."""
    extra = {k: v for k, v in record.__dict__.items() if k not in _STANDARD_ATTRIBUTES}
    return {**_bound.get(), **extra}
