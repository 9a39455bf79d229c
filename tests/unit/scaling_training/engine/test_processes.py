"""Where processes are started while others are waited for, and which of them become a group."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scaling_training.engine import processes
    from scaling_training.engine.answers import START_LIMIT_S
    from scaling_training.engine.processes import Processes, missing, packed


@pytest.mark.parametrize(
    ("slots", "taken", "nodes"),
    [
        pytest.param({}, {}, [], id="no node yet"),
        pytest.param({"a": 1}, {}, ["a"], id="one of two is there: it starts"),
        pytest.param({"a": 1, "b": 1}, {"a": 1}, ["b"], id="the other one follows"),
        pytest.param({"a": 1, "b": 1}, {"a": 1, "b": 1}, [], id="all have started"),
        pytest.param({"a": 1, "b": 3}, {"b": 1}, ["a", "b", "b"], id="several on a node"),
    ],
)
def test_processes_are_started_where_slots_are_free(
    slots: Mapping[str, int], taken: Mapping[str, int], nodes: list[str]
) -> None:
    assert missing(slots, taken) == nodes


@pytest.mark.parametrize(
    ("nodes", "count", "chosen"),
    [
        pytest.param(["a", "b"], 2, ["a", "b"], id="all"),
        pytest.param(["a", "b", "b"], 2, ["b", "b"], id="those that are on one node"),
        pytest.param(["c", "b", "a", "b"], 3, ["b", "b", "a"], id="then in a fixed order"),
    ],
)
def test_a_group_is_on_few_nodes(nodes: list[str], count: int, chosen: list[str]) -> None:
    assert [nodes[index] for index in packed(nodes, count)] == chosen


def test_a_process_that_never_answers_is_started_anew_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started: list[Any] = []
    killed: list[Any] = []
    answered = {"metadata of 0"}

    def make(**options: Any) -> Any:
        metadata = f"metadata of {len(started)}"
        started.append(SimpleNamespace(get_metadata=SimpleNamespace(remote=lambda: metadata)))
        return started[-1]

    def wait(asked: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        return [one for one in asked if one in answered], [one for one in asked if one not in answered]

    monkeypatch.setattr(processes, "ray", SimpleNamespace(kill=killed.append, wait=wait))
    waiting, slots = Processes(make), {"a" * 56: 1, "b" * 56: 1}
    waiting.start(slots, now=100.0)
    waiting.start(slots, now=100.0 + START_LIMIT_S - 1.0)
    assert (len(started), killed) == (2, [])
    with caplog.at_level(logging.WARNING):
        waiting.start(slots, now=100.0 + START_LIMIT_S)
    assert (len(started), killed) == (3, [started[1]])
    assert "b" * 56 in caplog.text
    answered.add("metadata of 2")
    waiting.start(slots, now=100.0 + 9 * START_LIMIT_S)
    assert len(started) == 3
    assert waiting.answered(timeout_s=0) == 2
