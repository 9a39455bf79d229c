"""Where processes are started while others are waited for, and which of them become a group."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scaling_training.engine.processes import missing, packed


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
