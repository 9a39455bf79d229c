"""What is deleted of attempts that have ended."""

from __future__ import annotations

import pytest

from scaling_api.driver import CONTAINER_DRIVER
from scaling_operator.decide.clean_up import (
    FOLLOWS_ITS_HEAD_S,
    CleanPodPolicy,
    clean_up,
    clean_up_after_the_end,
    is_clean,
)
from scaling_operator.decide.types import Action, DeleteAttempt, DeletePods, Observed, PodView

from .builders import NOW, ended, head, observed, worker

_DONE = head(phase="Succeeded")
_STOPPING = head(driver=ended(CONTAINER_DRIVER, 0))
_UNSCHEDULED = head(phase="Pending", ready=False, containers={}, unschedulable="no room")
_WORKER = worker(0)


def _delete(*pods: PodView) -> Action:
    return DeletePods(tuple((pod.name, pod.uid) for pod in pods))


@pytest.mark.parametrize(
    ("pods", "policy", "expected"),
    [
        pytest.param([_DONE, _WORKER], "All", [_delete(_DONE, _WORKER), DeleteAttempt(1)], id="All takes everything"),
        pytest.param([_DONE, _WORKER], "Running", [_delete(_WORKER), DeleteAttempt(1)], id="Running keeps what ended"),
        pytest.param(
            [_STOPPING, _WORKER],
            "Running",
            [_delete(_WORKER), DeleteAttempt(1)],
            id="Running keeps a head that is about to end, for its log",
        ),
        pytest.param([_DONE, _WORKER], "None", [], id="None keeps all that ends by itself"),
        pytest.param([_STOPPING, _WORKER], "None", [], id="None keeps a head that is about to end"),
        pytest.param([head(), _WORKER], "None", [_delete(head())], id="None lets no driver work on"),
        pytest.param(
            [_UNSCHEDULED, _WORKER], "None", [_delete(_UNSCHEDULED)], id="nor start one, should there be room later"
        ),
        pytest.param([worker(0, terminating=True)], "All", [DeleteAttempt(1)], id="nothing is deleted twice"),
        pytest.param([head(terminating=True)], "None", [], id="nor with None"),
    ],
)
def test_after_the_end(pods: list[PodView], policy: CleanPodPolicy, expected: list[Action]) -> None:
    assert clean_up_after_the_end(observed(pods), policy, NOW, now=NOW)[0] == expected


@pytest.mark.parametrize(
    ("later_s", "expected"),
    [
        pytest.param(-1.0, ([], 1.0), id="it has time to end by itself"),
        pytest.param(0.0, ([_delete(_WORKER)], None), id="then it goes"),
        pytest.param(1.0, ([_delete(_WORKER)], None), id="and afterwards"),
    ],
)
def test_none_keeps_no_worker_that_waits_without_a_head(
    later_s: float, expected: tuple[list[Action], float | None]
) -> None:
    seen = observed([_DONE, _WORKER, worker(1, phase="Failed")])
    assert clean_up_after_the_end(seen, "None", NOW, now=NOW + FOLLOWS_ITS_HEAD_S + later_s) == expected


def test_the_attempt_at_work_is_spared() -> None:
    old, new = worker(0), worker(0, attempt=2)
    seen = observed([old, new], services=frozenset({1, 2}), policies=frozenset({2}))
    assert clean_up(seen, except_attempt=2) == [_delete(old), DeleteAttempt(1)]


@pytest.mark.parametrize(
    ("seen", "clean"),
    [
        pytest.param(observed(services=frozenset(), policies=frozenset()), True, id="nothing"),
        pytest.param(
            observed([worker(0, terminating=True, gone_by=NOW - 59)], services=frozenset(), policies=frozenset()),
            False,
            id="a pod that still terminates",
        ),
        pytest.param(
            observed([worker(0, terminating=True, gone_by=NOW - 60)], services=frozenset(), policies=frozenset()),
            True,
            id="a pod that has terminated for too long",
        ),
        pytest.param(
            observed([worker(0)], services=frozenset(), policies=frozenset()), False, id="a pod that is to be deleted"
        ),
        pytest.param(observed(services=frozenset({1}), policies=frozenset()), False, id="a Service"),
        pytest.param(observed(services=frozenset(), policies=frozenset({1})), False, id="a NetworkPolicy"),
    ],
)
def test_is_clean(seen: Observed, clean: bool) -> None:
    assert is_clean(seen, NOW) is clean
