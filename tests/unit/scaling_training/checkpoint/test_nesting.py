from __future__ import annotations

from scaling_training.checkpoint.nesting import flat, nested


def test_paths_name_what_was_nested_and_lead_back() -> None:
    value = {"a": 1, "b": {"c": 2, "d": {"e": [3]}}}
    assert flat(value, "/") == {"a": 1, "b/c": 2, "b/d/e": [3]}
    assert nested(flat(value, "/"), "/") == value


def test_an_empty_mapping_leaves_nothing() -> None:
    assert flat({"a": {}, "b": 1}, ".") == {"b": 1}
