from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import pytest

from scaling_training.engine import session

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ray
    from ray import cluster_utils


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
