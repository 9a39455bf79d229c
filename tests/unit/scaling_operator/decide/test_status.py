"""Reading, writing and comparing the leader's part of the status."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scaling_api.reasons import ConditionType, Reason
from scaling_api.status import MAX_ATTEMPTS_KEPT, ScalingJobStatus
from scaling_operator.decide.attempts import begin, fail
from scaling_operator.decide.conditions import Verdict, merged
from scaling_operator.decide.failure import deleted
from scaling_operator.decide.pod_sets import pod_sets
from scaling_operator.decide.status import FIELDS, MAX_MESSAGE, is_urgent, patch, remember, render, summarise
from scaling_operator.decide.types import Memory, Trouble
from tests.unit.scaling_operator.simulation.server import merge_patch

from .builders import DIGEST, NOW, at_work, job, persisted, worker


def _full() -> Memory:
    lost = fail(at_work(), deleted("mnist-1-head"), backoff_limit=3, final=False, now=NOW)
    return replace(begin(lost, digest=DIGEST, now=NOW + 1), incarnations={"cpu-0": 2}, active_seconds=12.5)


def test_what_is_written_is_what_is_read() -> None:
    read = remember(persisted(_full()))
    assert persisted(read) == persisted(_full())
    judged_now = {kind: replace(found, generation=None) for kind, found in read.conditions.items()}
    assert replace(read, conditions=judged_now) == _full()


def test_what_is_written_is_a_valid_status() -> None:
    rendered = {name: value for name, value in persisted(_full()).items() if value is not None}
    ScalingJobStatus.model_validate(rendered)


def test_only_the_latest_attempts_are_kept_and_counting_goes_on() -> None:
    records = tuple(replace(at_work().attempts[0], number=number, ended_at=NOW) for number in range(1, 30))
    memory = remember(persisted(Memory(attempts=records)))
    assert len(memory.attempts) == MAX_ATTEMPTS_KEPT
    assert memory.last is not None
    assert memory.last.number == 29


def test_messages_are_bounded() -> None:
    trouble = Trouble(reason=deleted("x").reason, message="x" * 5000)
    rendered = persisted(fail(at_work(), trouble, backoff_limit=3, final=True, now=NOW))
    assert len(rendered["attempts"][0]["message"]) == MAX_MESSAGE
    assert max(len(entry["message"]) for entry in rendered["conditions"]) == MAX_MESSAGE


def test_patch_turns_one_into_the_other_and_touches_nothing_else() -> None:
    old = {name: value for name, value in persisted(_full()).items() if value is not None} | {"progress": {"step": 1}}
    new = render(at_work(incarnations={"cpu-1": 1}), phase="Running", generation=2, groups=[], workers="1/2")
    patched = merge_patch(old, patch(old, new))
    assert patched["progress"] == {"step": 1}
    assert {name: patched.get(name) for name in FIELDS} == new


def _generations(memory: Memory, generation: int) -> dict[str, int]:
    rendered = render(memory, phase="Running", generation=generation, groups=[], workers="0/2")
    return {entry["type"]: entry["observedGeneration"] for entry in rendered["conditions"]}


def test_a_condition_speaks_of_the_spec_that_it_was_judged_for() -> None:
    read = remember(persisted(_full()))  # of generation 1
    judged = _with(read, ConditionType.RUNNING, Verdict(True, Reason.DRIVER_RUNNING, "The driver runs."))
    before = {str(kind): 1 for kind in read.conditions}
    assert len(before) > 1
    assert _generations(judged, 2) == before | {"Running": 2}


def test_no_change_no_patch() -> None:
    written = {name: value for name, value in persisted(_full()).items() if value is not None}
    assert patch(written, persisted(_full())) == {}


def _with(memory: Memory, kind: ConditionType, verdict: Verdict) -> Memory:
    return replace(memory, conditions=merged(memory.conditions, {kind: verdict}, now=NOW))


@pytest.mark.parametrize(
    ("change", "urgent"),
    [
        pytest.param({}, False, id="nothing"),
        pytest.param({"workers": "1/2"}, False, id="a counter"),
        pytest.param({"phase": "Restarting"}, True, id="the phase"),
        pytest.param({"observedGeneration": 2}, True, id="a generation seen"),
        pytest.param({"incarnations": {"cpu-0": 3}}, True, id="an incarnation"),
        pytest.param({"attempt": 3}, True, id="an attempt"),
    ],
)
def test_urgency_of_fields(change: dict[str, Any], urgent: bool) -> None:
    old = persisted(_full())
    assert is_urgent(old, {**old, **change}) is urgent


@pytest.mark.parametrize(
    ("kind", "verdict", "urgent"),
    [
        pytest.param(
            ConditionType.CLUSTER_READY, Verdict(True, Reason.CLUSTER_READY, ""), True, id="a condition turns"
        ),
        pytest.param(
            ConditionType.CLUSTER_READY,
            Verdict(False, Reason.WAITING_FOR_WORKERS, "1 of 2"),
            False,
            id="still waiting, for something else",
        ),
        pytest.param(
            ConditionType.CLUSTER_READY, Verdict(False, "ImagePullFailed", "…"), True, id="waiting has become trouble"
        ),
        pytest.param(
            ConditionType.RUNNING, Verdict(True, Reason.DRIVER_RUNNING, ""), False, id="the driver, before the cluster"
        ),
    ],
)
def test_urgency_of_conditions(kind: ConditionType, verdict: Verdict, urgent: bool) -> None:
    assert is_urgent(persisted(_full()), persisted(_with(_full(), kind, verdict))) is urgent


def test_summary_of_groups() -> None:
    sets = pod_sets(job(workers=3).spec.cluster)
    alive = {"cpu": [worker(0), worker(1, ready=False), worker(2)]}
    entries, text = summarise(sets, alive, {"cpu": 3, "other": 7})
    assert entries == [{"name": "cpu", "desired": 3, "running": 3, "ready": 2, "replaced": 3}]
    assert text == "2/3"
