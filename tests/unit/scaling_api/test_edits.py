from __future__ import annotations

from typing import Any

import pytest

from scaling_api.edits import FROZEN_SENTENCE, FROZEN_WHILE_RUNNING, edit_allowed, editable_fields, frozen_part
from scaling_api.spec import ScalingJobSpec

_SPEC: dict[str, Any] = {
    "model": {"name": "small-cnn"},
    "training": {"epochs": 2},
    "cluster": {
        "env": [{"name": "B", "value": "1"}, {"name": "A", "value": "2"}],
        "workers": [{"name": "gpu", "min": 1, "max": 4, "slots": 8}, {"name": "cpu", "min": 0, "max": 1, "slots": 1}],
    },
    "runPolicy": {"suspend": False},
}


def _edited(path: str, value: Any) -> dict[str, Any]:
    """The spec with the field at ``path`` (of the first item, where there is a list) changed."""

    def changed(node: Any, parts: list[str]) -> Any:
        if isinstance(node, list):
            return [changed(node[0], parts), *node[1:]]
        return {**node, parts[0]: changed(node[parts[0]], parts[1:]) if len(parts) > 1 else value}

    spec: dict[str, Any] = changed(_SPEC, path.split("."))
    return spec


def _allowed(spec: dict[str, Any]) -> bool:
    return edit_allowed({"spec": _SPEC, "status": {"attempt": 1}}, {"spec": spec, "status": {"attempt": 1}})


def test_the_fields_that_are_marked_are_those_that_people_are_told_of() -> None:
    assert list(editable_fields()) == ["cluster.workers.min", "cluster.workers.max", "runPolicy"]
    assert "cluster.workers min and max and of runPolicy only" in FROZEN_SENTENCE


@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        ("cluster.workers.min", 2, True),
        ("cluster.workers.max", 2, True),
        ("runPolicy.suspend", True, True),
        ("runPolicy", {"suspend": False, "backoffLimit": 3}, True),
        ("cluster.workers.slots", 4, False),
        ("cluster.env", [_SPEC["cluster"]["env"][1], _SPEC["cluster"]["env"][0]], True),
        ("cluster.env.value", "3", False),
        ("cluster.workers", _SPEC["cluster"]["workers"][:1], False),
        ("cluster.workers", _SPEC["cluster"]["workers"][::-1], True),
        ("training.epochs", 3, False),
        ("training.epochs", True, False),
        ("storage", {"claimName": "runs"}, False),
    ],
)
def test_a_running_job_takes_edits_of_these_fields_alone(path: str, value: Any, allowed: bool) -> None:
    assert _allowed(_edited(path, value)) is allowed


def test_every_field_is_either_editable_or_compared_by_the_api_server() -> None:
    for name, field in ScalingJobSpec.model_fields.items():
        key = field.alias or name
        assert (f"self.spec.{key}" in FROZEN_WHILE_RUNNING.partition(" || (")[2]) is (key != "runPolicy"), key
    assert "n.slots == o.slots" in FROZEN_WHILE_RUNNING
    assert "n.max" not in FROZEN_WHILE_RUNNING


def test_what_is_frozen_is_a_copy_without_what_may_be_edited() -> None:
    assert frozen_part(_SPEC)["cluster"]["workers"] == [{"name": "cpu", "slots": 1}, {"name": "gpu", "slots": 8}]
    assert _SPEC["cluster"]["workers"][0]["min"] == 1
