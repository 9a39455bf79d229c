"""A driver that says that nothing advances."""

from __future__ import annotations

from typing import Any

import pytest

from scaling_api.reasons import ConditionType, Reason
from scaling_operator.decide import Decision, decide
from scaling_operator.decide.types import Memory

from .builders import NOW, after, at_work, condition, head, job, observed, persisted, worker

SINCE = "2027-01-15T07:40:00Z"
STALLED = {
    "reportedAttempt": 1,
    "progress": {"stage": "train", "step": 42, "stalledSince": SINCE, "updatedAt": "2027-01-15T07:50:00Z"},
    "stages": [{"name": "train", "state": "Running", "message": "reading the data"}],
}
ADVANCES = {"reportedAttempt": 1, "progress": {"stage": "train", "step": 43, "updatedAt": SINCE}}


def _decided(reports: dict[str, Any], memory: Memory | None = None, **changes: Any) -> Decision:
    seen = observed([head(), worker(0), worker(1)], **({"memory": memory} if memory is not None else {}), **changes)
    return decide(job(), seen, {**persisted(seen.memory), **reports}, now=NOW)


def test_it_is_a_condition_with_a_sentence_told_once_and_ends_nothing() -> None:
    decision = _decided(STALLED)
    assert condition(decision, ConditionType.STALLED) == ("True", Reason.NOT_ADVANCING)
    (event,) = decision.events
    assert event.message.startswith(
        f"Nothing has advanced since {SINCE} (stage train, step 42): reading the data. The driver runs and answers: "
    )
    assert decision.urgent
    assert decision.actions == ()
    assert after(decision).current is not None
    again = _decided(STALLED, after(decision))
    assert again.events == ()
    assert not again.urgent


@pytest.mark.parametrize(
    "reports",
    [
        pytest.param({}, id="it has not reported yet"),
        pytest.param(ADVANCES, id="its last report, however old, says that it advances"),
        pytest.param({**STALLED, "reportedAttempt": 2}, id="it is another attempt that said so"),
    ],
)
def test_a_job_that_was_never_stalled_has_no_such_condition(reports: dict[str, Any]) -> None:
    assert ConditionType.STALLED not in after(_decided(reports)).conditions


def test_a_job_that_waits_for_workers_is_not_stalled() -> None:
    seen = observed([head()])
    waits = decide(job(), seen, {**persisted(seen.memory), **STALLED}, now=NOW)
    assert condition(waits, ConditionType.CLUSTER_READY)[0] == "False"
    assert ConditionType.STALLED not in after(waits).conditions


def test_it_ends_when_something_advances_and_with_the_attempt() -> None:
    stalled = after(_decided(STALLED))
    advances = _decided(ADVANCES, stalled)
    assert condition(advances, ConditionType.STALLED) == ("False", Reason.ADVANCING)
    lost = decide(job(), observed(memory=stalled), {**persisted(stalled), **STALLED}, now=NOW)
    assert condition(lost, ConditionType.STALLED) == ("False", Reason.ENDED)
    assert lost.status is not None
    assert lost.status["progress"] == {"summary": "stopped at 0%", "stalledSince": None}
    assert at_work().conditions.keys() <= after(lost).conditions.keys()
