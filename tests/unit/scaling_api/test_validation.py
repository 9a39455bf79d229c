"""The offline half of the refusals; tests/cluster/test_refusals.py sends the same cases to an API server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling_api.crd import schema
from scaling_api.edits import FROZEN_SENTENCE
from scaling_api.validation import check, check_edit, examine, is_ours
from tests.cases.case import Case, Change, Edit, minimal, put
from tests.cases.refusals import ACCEPTED, EDITS, REFUSED, RULES


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_refused_with_a_sentence_that_names_the_field(case: Case) -> None:
    problems = check(case.manifest())
    assert [problem.field for problem in problems if problem.field.startswith(case.path)], problems
    assert any(case.fragment in str(problem) for problem in problems), problems


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_one_mistake_is_one_problem(case: Case) -> None:
    assert len(check(case.manifest())) == 1


@pytest.mark.parametrize(("id_", "change"), ACCEPTED, ids=[id_ for id_, _ in ACCEPTED])
def test_accepted(id_: str, change: Change) -> None:
    manifest = minimal()
    change(manifest)
    assert check(manifest) == []


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.id)
def test_edit(edit: Edit) -> None:
    problems = check_edit(*edit.manifests())
    if edit.fragment is None:
        assert problems == []
    else:
        assert [(problem.field, edit.fragment in problem.message) for problem in problems] == [("spec", True)]


def test_a_refused_edit_says_what_was_changed() -> None:
    old, new = minimal() | {"status": {"attempt": 1}}, minimal()
    put("spec.training.epochs", 3)(new)
    put("spec.cluster.image", "a:1")(new)
    (problem,) = check_edit(old, new)
    assert problem.suggestion == "changed: spec.cluster.image, spec.training.epochs"


def _messages(node: dict[str, Any]) -> Iterator[str]:
    """The message of every rule and pattern that stands below a schema, with quoted values open."""
    for validation in node.get("x-kubernetes-validations", []):
        yield validation["message"]
    for child in (*node.get("properties", {}).values(), node.get("items"), node.get("additionalProperties")):
        if child:
            yield from _messages(child)


def _as_regex(message: str) -> re.Pattern[str]:
    if message.startswith("the value is not "):
        return re.compile(".*" + re.escape(message.removeprefix("the value ")))
    return re.compile(".*".join(map(re.escape, re.split(r"<[a-zA-Z.]+>", message))))


_MESSAGES = sorted({*_messages(schema()["properties"]["spec"]), FROZEN_SENTENCE})


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What is said to all cases."""
    problems = [problem for case in RULES for problem in check(case.manifest())]
    problems += [problem for edit in EDITS for problem in check_edit(*edit.manifests())]
    return [str(problem) for problem in problems]


@pytest.mark.parametrize("message", _MESSAGES)
def test_every_rule_has_a_case(message: str, said: list[str]) -> None:
    assert any(_as_regex(message).search(sentence) for sentence in said)


def test_there_are_rules_to_have_cases() -> None:
    assert len(_MESSAGES) > 20


def test_a_run_on_one_machine_needs_neither_storage_nor_workers() -> None:
    manifest = minimal()
    del manifest["spec"]["storage"]
    manifest["spec"]["training"]["parallelism"] = {"data": 3}
    assert {problem.field for problem in check(manifest)} == {"spec.storage", "spec.training.parallelism"}
    assert check(manifest, on_cluster=False) == []


@pytest.mark.parametrize(
    ("manifest", "field", "fragment"),
    [
        (None, "", "a manifest is a mapping"),
        ("text", "", 'not the text "text"'),
        ([], "", "not a list"),
        ({"kind": "ScalingJob", "metadata": {"name": "a"}}, "apiVersion", "write scaling.dev/v1alpha1"),
        (minimal() | {"apiVersion": "scaling.dev/v1"}, "apiVersion", "must be scaling.dev/v1alpha1"),
        (minimal() | {"kind": "Job"}, "kind", 'must be ScalingJob, not the text "Job"'),
        (minimal() | {"kind": "https://me:pass@h"}, "kind", 'not the text "https://***@h"'),
        (minimal() | {"metadata": None}, "metadata", "it holds the name of the job"),
        (minimal() | {"metadata": "mnist"}, "metadata", "must be a mapping"),
        (minimal() | {"metadata": {}}, "metadata.name", "is required"),
        (minimal() | {"metadata": {"name": "a", "namespace": "A_b"}}, "metadata.namespace", "not the name of a namesp"),
        (minimal() | {"metadata": {"name": "a", "labels": []}}, "metadata.labels", "must be a mapping"),
    ],
)
def test_what_is_hardly_a_manifest(manifest: Any, field: str, fragment: str) -> None:
    (problem,) = check(manifest)
    assert (problem.field, fragment in problem.message) == (field, True), problem


def test_all_problems_are_told_at_once() -> None:
    manifest = minimal()
    for path, value in (("spec.training.epochs", 0), ("spec.model.name", "x"), ("spec.dataset.nam", 1)):
        put(path, value)(manifest)
    assert {problem.field for problem in check(manifest)} == {
        "spec.training.epochs",
        "spec.model.name",
        "spec.dataset.nam",
    }


def test_a_right_manifest_gives_the_job() -> None:
    job, problems = examine(minimal())
    assert problems == []
    assert job is not None
    assert (job.metadata.name, job.spec.training.epochs, job.spec.cluster.workers[0].max) == ("mnist", 2, 2)


@pytest.mark.parametrize(
    ("manifest", "ours"),
    [
        (minimal(), True),
        ({"apiVersion": "v1", "kind": "ConfigMap"}, False),
        ({"apiVersion": "batch/v1", "kind": "Job"}, False),
        ({"apiVersion": "scaling.dev/v9", "kind": "Other"}, True),
        ({"kind": "scalingjob"}, True),
        ({}, False),
        ("text", True),
    ],
)
def test_is_ours(manifest: Any, ours: bool) -> None:
    assert is_ours(manifest) is ours


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
_PATHS = st.sampled_from(
    [
        "spec",
        "spec.training",
        "spec.cluster",
        "spec.cluster.workers",
        "spec.cluster.env",
        "metadata",
        "spec.storage.uri",
    ]
)


@given(path=_PATHS, value=_JSON)
def test_nothing_in_a_manifest_makes_the_check_fail(path: str, value: Any) -> None:
    manifest = minimal()
    put(path, value)(manifest)
    for problem in check(manifest):
        assert str(problem)


def test_a_refused_place_is_shown_without_its_password() -> None:
    manifest = minimal()
    manifest["spec"]["dataset"] = {"name": "image-folder", "uri": "https://me:pass@host/a"}
    (problem,) = check(manifest)
    assert problem.message.startswith('"https://***@host/a" is not a place of data')
