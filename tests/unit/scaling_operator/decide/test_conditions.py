"""Conditions from facts."""

from __future__ import annotations

from typing import Any

import pytest

from scaling_api.driver import CONTAINER_RAY
from scaling_api.reasons import ConditionType, Failure, Reason
from scaling_operator.decide.clock import to_rfc3339
from scaling_operator.decide.conditions import Verdict, cluster_ready, merged
from scaling_operator.decide.pod_sets import pod_sets
from scaling_operator.decide.types import PodView

from .builders import NOW, container, head, job, worker

_PULLING = {CONTAINER_RAY: container(CONTAINER_RAY, "waiting", reason="ErrImagePull", message="no such image")}


def _unready(index: int, **fields: Any) -> PodView:
    return worker(index, phase="Pending", ready=False, **fields)


@pytest.mark.parametrize(
    ("of_head", "workers", "refusal", "holds", "reason", "says"),
    [
        pytest.param(None, [], None, False, Reason.WAITING_FOR_HEAD, "head", id="no head yet"),
        pytest.param(
            head(phase="Pending", containers=_PULLING),
            [],
            None,
            False,
            Failure.IMAGE_PULL_FAILED,
            "no such image",
            id="the head's trouble is named",
        ),
        pytest.param(
            head(), [_unready(0)], None, False, Reason.WAITING_FOR_WORKERS, "0 of 2 workers of group cpu", id="none"
        ),
        pytest.param(
            head(),
            [worker(0), _unready(1, containers=_PULLING)],
            None,
            False,
            Failure.IMAGE_PULL_FAILED,
            "no such image",
            id="a worker's trouble is named while it is needed",
        ),
        pytest.param(
            head(),
            [worker(0), worker(1), _unready(2, containers=_PULLING)],
            None,
            True,
            Reason.CLUSTER_READY,
            "2 workers",
            id="as many as are needed are enough",
        ),
        pytest.param(
            head(),
            [worker(0)],
            "quota",
            False,
            Failure.REFUSED_BY_API,
            "quota",
            id="a worker that is needed is refused",
        ),
        pytest.param(None, [], "quota", False, Failure.REFUSED_BY_API, "quota", id="the head is refused"),
        pytest.param(
            head(),
            [worker(0), worker(1)],
            "quota",
            True,
            Reason.CLUSTER_READY,
            "2 workers are up. quota",
            id="one more than is needed is refused",
        ),
        pytest.param(
            head(),
            [worker(0), _unready(1)],
            "quota",
            False,
            Reason.WAITING_FOR_WORKERS,
            "1 of 2 workers of group cpu are ready. quota",
            id="one more is refused while those that are needed start",
        ),
    ],
)
def test_cluster_ready(
    of_head: PodView | None, workers: list[PodView], refusal: str | None, holds: bool, reason: str, says: str
) -> None:
    sets = pod_sets(job(workers=3, minimum=2).spec.cluster)
    verdict = cluster_ready(sets, of_head, {"cpu": workers}, {}, refusal, now=NOW)
    assert (verdict.holds, verdict.reason) == (holds, reason)
    assert says in verdict.message


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    kind = ConditionType.CLUSTER_READY
    first = merged({}, {kind: Verdict(False, "A", "a")}, now=NOW)
    same = merged(first, {kind: Verdict(False, "B", "b")}, now=NOW + 10)
    changed = merged(same, {kind: Verdict(True, "C", "c")}, now=NOW + 20)
    assert (same[kind].since, same[kind].reason) == (to_rfc3339(NOW), "B")
    assert changed[kind].since == to_rfc3339(NOW + 20)


def test_other_conditions_stay() -> None:
    before = merged({}, {ConditionType.ACCEPTED: Verdict(True, "A", "a")}, now=NOW)
    assert merged(before, {ConditionType.RUNNING: Verdict(True, "B", "b")}, now=NOW + 10) | before == (
        merged(before, {ConditionType.RUNNING: Verdict(True, "B", "b")}, now=NOW + 10)
    )
