from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterator

import orjson
import pytest

from scaling_operator.runtime.logs import bound, configure_logging, redact

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl"


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, factory = root.handlers[:], root.level, logging.getLogRecordFactory()
    # Libraries that other tests import (Ray) make records with fields of their own.
    logging.setLogRecordFactory(logging.LogRecord)
    yield
    logging.setLogRecordFactory(factory)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def output(restored_logging: None) -> io.StringIO:
    stream = io.StringIO()
    configure_logging("info", log_format="json", stream=stream)
    return stream


def test_a_record_is_one_json_line_with_its_fields(output: io.StringIO) -> None:
    with bound(namespace="ns", job="mnist"), bound(attempt=2):
        logging.getLogger("x").warning("lost %s", "a pod", extra={"pod": "mnist-1"})
    logging.getLogger("x").debug("below the level")
    (line,) = output.getvalue().splitlines()
    entry = orjson.loads(line)
    assert entry.pop("ts").endswith("Z")
    assert entry == {
        "level": "warning",
        "logger": "x",
        "msg": "lost a pod",
        "namespace": "ns",
        "job": "mnist",
        "attempt": 2,
        "pod": "mnist-1",
    }


def test_a_traceback_stays_on_the_line(output: io.StringIO) -> None:
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("x").exception("failed")
    (line,) = output.getvalue().splitlines()
    assert "ValueError: why" in orjson.loads(line)["exception"]


async def test_bound_fields_follow_into_tasks_and_end_with_the_block(output: io.StringIO) -> None:
    async def log() -> None:
        logging.getLogger("x").info("inside")

    with bound(job="a"):
        task = asyncio.create_task(log())
    await task
    logging.getLogger("x").info("outside")
    inside, outside = (orjson.loads(line) for line in output.getvalue().splitlines())
    assert inside["job"] == "a"
    assert "job" not in outside


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("Authorization: Bearer abcdef123456", "Authorization: Bearer [redacted]", id="bearer token"),
        pytest.param("bearer abc/def+1234==, next", "bearer [redacted], next", id="any case, base64"),
        pytest.param(f"token {JWT} rest", "token [redacted] rest", id="a bare JWT"),
        pytest.param("Basic dXNlcjpwYXNz", "Basic [redacted]", id="basic credentials"),
        pytest.param("the bearer of news", "the bearer of news", id="plain words stay"),
    ],
)
def test_secrets_are_blanked_out(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_secret_reaches_the_stream(restored_logging: None, log_format: str) -> None:
    stream = io.StringIO()
    configure_logging(log_format=log_format, stream=stream)  # type: ignore[arg-type]
    try:
        raise ValueError(f"Bearer {JWT}")
    except ValueError:
        logging.getLogger("x").exception("refused %s", JWT, extra={"header": f"Bearer {JWT}"})
    assert "eyJ" not in stream.getvalue()


def test_text_is_readable(restored_logging: None) -> None:
    stream = io.StringIO()
    configure_logging(log_format="text", stream=stream)
    with bound(job="mnist"):
        logging.getLogger("x").info("attempt started")
    assert stream.getvalue().endswith("INFO    x: attempt started  job=mnist\n")
