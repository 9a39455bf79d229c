from __future__ import annotations

import logging
import threading

import pytest

from scaling_training.aside import Aside


def test_nobody_waits_and_the_order_is_kept() -> None:
    aside, go, done = Aside(), threading.Event(), list[int]()
    aside.do("The first", lambda: done.append(1) if go.wait(60) else None)
    aside.do("The second", lambda: done.append(2))
    aside.wait(timeout_s=0.1)
    assert done == []
    go.set()
    aside.wait(timeout_s=60)
    assert done == [1, 2]


class HttpError(Exception):
    """As gcsfs has one, which is no OSError."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("no space left"), "no space left"),
        (HttpError("https://me:secret@store/run: 403"), "https://***@store/run: 403"),
        (HttpError(), "HttpError"),
    ],
    ids=["of the system", "of a library, with a secret", "without a word"],
)
def test_what_storage_refuses_is_said_and_the_next_is_done(
    error: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    def refused() -> None:
        raise error

    aside, done = Aside(), list[int]()
    with caplog.at_level(logging.ERROR):
        aside.do("The timeline", refused)
        aside.do("The stacks", lambda: done.append(1))
        aside.wait(timeout_s=60)
    assert f"The timeline could not be saved: {said}" in caplog.text
    assert done == [1]


def test_without_work_there_is_nothing_to_wait_for() -> None:
    Aside().wait(timeout_s=60)
