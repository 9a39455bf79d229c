"""Where processes are started while others are waited for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scaling_training.engine.processes import missing


@pytest.mark.parametrize(
    ("slots", "taken", "count", "nodes"),
    [
        pytest.param({}, {}, 2, [], id="no node yet"),
        pytest.param({"a": 1}, {}, 2, ["a"], id="one of two is there: it starts"),
        pytest.param({"a": 1, "b": 1}, {"a": 1}, 2, ["b"], id="the other one follows"),
        pytest.param({"a": 1, "b": 1}, {"a": 1, "b": 1}, 2, [], id="all have started"),
        pytest.param({"a": 1, "b": 4, "c": 2}, {}, 5, ["b", "b", "b", "b", "c"], id="on few nodes"),
        pytest.param({"a": 1, "b": 4}, {"a": 1}, 3, ["b", "b"], id="what has started counts, wherever it is"),
        pytest.param({"a": 2}, {"a": 2}, 1, [], id="more than are wanted"),
        pytest.param({"b": 1, "a": 1}, {}, 1, ["a"], id="the order of the nodes says nothing"),
    ],
)
def test_missing_processes_are_started_where_slots_are_free(
    slots: Mapping[str, int], taken: Mapping[str, int], count: int, nodes: list[str]
) -> None:
    assert missing(slots, taken, count) == nodes
