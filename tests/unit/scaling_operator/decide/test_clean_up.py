"""What is deleted of attempts that have ended."""

from __future__ import annotations

import pytest

from scaling_api.driver import CONTAINER_DRIVER
from scaling_operator.decide.clean_up import CleanPodPolicy, clean_up, is_clean
from scaling_operator.decide.types import Action, DeleteAttempt, DeletePods, Observed, PodView

from .builders import NOW, ended, head, observed, worker

_DONE = head(phase="Succeeded")
_STOPPING = head(driver=ended(CONTAINER_DRIVER, 0))
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
        pytest.param([_DONE, _WORKER], "None", [], id="None keeps all"),
        pytest.param([worker(0, terminating=True)], "All", [DeleteAttempt(1)], id="nothing is deleted twice"),
    ],
)
def test_after_the_end(pods: list[PodView], policy: CleanPodPolicy, expected: list[Action]) -> None:
    assert clean_up(observed(pods), policy=policy) == expected


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
