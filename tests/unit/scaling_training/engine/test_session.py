from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import pytest

from scaling_training.engine import EngineError, session
from scaling_training.engine.session import OBJECT_STORE_LEAST_BYTES, object_store_bytes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ray
    from ray import cluster_utils

GIB = 2**30


def test_a_node_that_ends_badly_does_not_cost_the_outcome(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Node:
        address = "nowhere"

        def __init__(self, **arguments: Any) -> None:
            pass

        def shutdown(self) -> None:
            raise TimeoutError("the raylet is still there")

    monkeypatch.setattr(cluster_utils, "Cluster", Node)
    monkeypatch.setattr(ray, "init", lambda **arguments: None)
    with caplog.at_level(logging.WARNING), session.local(1, 0) as folder:
        assert folder.is_dir()
    assert "TimeoutError: the raylet is still there" in caplog.text
    assert not folder.exists()
    assert "RAY_TMPDIR" not in os.environ


@pytest.mark.parametrize("part", ["the node", "the connection"])
def test_a_ray_that_does_not_start_is_a_sentence(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    ended: list[str] = []

    class Node:
        address = "nowhere"

        def __init__(self, **arguments: Any) -> None:
            if part == "the node":
                raise TimeoutError("the node\nhas not started")

        def shutdown(self) -> None:
            ended.append("the node")

    def init(**arguments: Any) -> None:
        raise TimeoutError("the node\nhas not started")

    monkeypatch.setattr(cluster_utils, "Cluster", Node)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("HOME", "/proc/nothing")
    sentence = (
        r"^Ray could not be started on this machine: TimeoutError: the node has not started; it needs a HOME that it "
        r"may write to \(/proc/nothing is this user's\), and room in \S+ and /dev/shm$"
    )
    with pytest.raises(EngineError, match=sentence), session.local(1, 0):
        raise AssertionError("nothing runs without Ray")
    assert ended == ([] if part == "the node" else ["the node"])
    assert "RAY_TMPDIR" not in os.environ


@pytest.mark.parametrize(
    ("memory", "shared", "expected"),
    [
        pytest.param(20 * GIB, 40 * GIB, 6 * GIB, id="a share of the memory"),
        pytest.param(20 * GIB, 10 * GIB, 3 * GIB, id="a share of what can be shared"),
        pytest.param(20 * GIB, GIB // 16, OBJECT_STORE_LEAST_BYTES, id="a container's small default"),
    ],
)
def test_the_object_store_grows_with_the_machine(memory: int, shared: int, expected: int) -> None:
    assert object_store_bytes(memory_bytes=memory, shared_bytes=shared) == expected
