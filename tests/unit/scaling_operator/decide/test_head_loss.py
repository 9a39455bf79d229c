"""The verdict on a head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scaling_api.driver import CONTAINER_DRIVER, CONTAINER_RAY, ExitCode
from scaling_api.reasons import Failure
from scaling_operator.decide.head_loss import (
    GIVE_UP_ON_HEAD_S,
    PREPARE_LIMIT_S,
    SILENT_LIMIT_S,
    START_LIMIT_S,
    HeadFine,
    HeadLost,
    HeadMissing,
    HeadStopping,
    HeadSucceeded,
    HeadVerdict,
    judge_head,
)
from scaling_operator.decide.types import Observed, PodView, Trouble
from tests.unit.scaling_operator import builders

from .builders import NOW, container, ended, head, job, observed


def _gone(last: PodView, *, unseen: bool = False) -> Observed:
    return observed(vanished={last.name: replace(last, end_unseen=unseen)})


def _judge(seen: Observed, *, now: float = NOW) -> HeadVerdict:
    return judge_head(seen, job(), 1, now=now)


def test_a_head_is_made_from_the_spec_that_its_attempt_began_with_or_not_at_all() -> None:
    verdict = _judge(observed(services=frozenset(), digest="spec-2"))
    assert isinstance(verdict, HeadLost)
    assert (verdict.trouble.reason, verdict.trouble.blameless) == (Failure.OBJECTS_GONE, True)
    assert "edited" in verdict.trouble.message
    assert _judge(observed([head()], digest="spec-2")) == HeadFine(), "one that is there has that spec"
    suspended = judge_head(observed(services=frozenset(), digest="spec-2"), job(suspend=True), 1, now=NOW)
    assert suspended == HeadMissing(), "an edit together with the suspension"


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        pytest.param(observed([head()]), HeadFine, id="it runs"),
        pytest.param(observed(services=frozenset()), HeadMissing, id="no head and no Service: not created yet"),
        pytest.param(observed([head(phase="Succeeded")]), HeadSucceeded, id="the pod succeeded"),
        pytest.param(
            observed([head(driver=ended(CONTAINER_DRIVER, 0))]),
            HeadSucceeded,
            id="the driver has ended well, Ray is still being stopped",
        ),
        pytest.param(
            observed([head(driver=ended(CONTAINER_DRIVER, 0), terminating=True)]),
            HeadSucceeded,
            id="the driver has ended well and the pod is being deleted",
        ),
        pytest.param(observed([head(attempt=2)], services=frozenset()), HeadMissing, id="another attempt's head"),
        pytest.param(
            observed(vanished={"mnist-1-head": head(driver=ended(CONTAINER_DRIVER, 0))}),
            HeadSucceeded,
            id="the driver ended well and the pod is gone",
        ),
        pytest.param(observed(finished=1), HeadSucceeded, id="it is gone, and its driver had reported the result"),
        pytest.param(
            observed([head(phase="Failed", reason="NodeShutdown", containers={})], finished=1),
            HeadSucceeded,
            id="it was taken away, and its driver had reported the result",
        ),
        pytest.param(observed([head()], finished=1), HeadFine, id="its driver is about to end"),
        pytest.param(observed(finished=2), HeadLost, id="the result is another attempt's"),
    ],
)
def test_kinds(seen: Observed, verdict: type) -> None:
    assert isinstance(_judge(seen), verdict)


@pytest.mark.parametrize(
    ("seen", "reason", "final"),
    [
        pytest.param(observed(), Failure.POD_DELETED, False, id="a Service without a head"),
        pytest.param(
            observed(services=frozenset(), vanished={"mnist-1-head": head()}),
            Failure.POD_DELETED,
            False,
            id="it vanished before its Service came",
        ),
        pytest.param(
            observed([head()], unusable={1: "the Secret is gone"}), Failure.OBJECTS_GONE, False, id="no Secret"
        ),
        pytest.param(
            observed([head(phase="Failed", driver=ended(CONTAINER_DRIVER, 1))]),
            Failure.DRIVER_FAILED,
            False,
            id="the driver failed",
        ),
        pytest.param(
            observed([head(driver=ended(CONTAINER_DRIVER, 1))]),
            Failure.DRIVER_FAILED,
            False,
            id="the driver failed, Ray is still being stopped",
        ),
        pytest.param(
            observed([head(phase="Failed", driver=ended(CONTAINER_DRIVER, ExitCode.REFUSED, message="no"))]),
            Failure.USER_ERROR,
            True,
            id="the driver refused: no other attempt helps",
        ),
        pytest.param(observed([head(phase="Failed", reason="Evicted")]), Failure.EVICTED, False, id="it was evicted"),
        pytest.param(
            observed([head(terminating=True, ready=False, disruption="DeletionByTaintManager")]),
            Failure.NODE_LOST,
            False,
            id="it is being deleted from a node that does not answer",
        ),
        pytest.param(
            observed([head(terminating=True, driver=container(CONTAINER_DRIVER, "waiting"))]),
            Failure.POD_DELETED,
            False,
            id="it is being deleted before its driver runs",
        ),
        pytest.param(
            observed(vanished={"mnist-1-head": head(terminating=True, disruption="EvictionByEvictionAPI")}),
            Failure.EVICTED,
            False,
            id="it was drained and is gone",
        ),
        pytest.param(
            observed([head(ray=container(CONTAINER_RAY, restarts=1, reason="OOMKilled"))]),
            Failure.RAY_RESTARTED,
            False,
            id="its Ray container has restarted",
        ),
        pytest.param(
            observed([head(ray=ended(CONTAINER_RAY, 1))]), Failure.RAY_RESTARTED, False, id="its Ray container ended"
        ),
    ],
)
def test_losses(seen: Observed, reason: Failure, final: bool) -> None:
    verdict = _judge(seen)
    assert isinstance(verdict, HeadLost)
    assert (verdict.trouble.reason, verdict.final) == (reason, final)


@pytest.mark.parametrize(
    ("late_s", "saves"),
    [
        pytest.param(-1.0, True, id="within its grace period and some more"),
        pytest.param(0.0, False, id="when even that is over"),
        pytest.param(1.0, False, id="and after it"),
    ],
)
def test_a_head_that_is_taken_away_has_time_to_save(late_s: float, saves: bool) -> None:
    going = head(terminating=True, gone_by=NOW, disruption="EvictionByEvictionAPI")
    verdict = _judge(observed([going]), now=NOW + GIVE_UP_ON_HEAD_S + late_s)
    assert isinstance(verdict, HeadStopping if saves else HeadLost)
    assert verdict.trouble.reason == Failure.EVICTED
    if isinstance(verdict, HeadStopping):
        assert verdict.look_again_s == -late_s


@pytest.mark.parametrize(
    ("silent_s", "verdict"),
    [
        pytest.param(SILENT_LIMIT_S - 1, HeadFine(look_again_s=1), id="it may answer again"),
        pytest.param(
            SILENT_LIMIT_S,
            HeadLost(
                Trouble(
                    Failure.UNRESPONSIVE,
                    "container driver of pod mnist-1-head did not answer its kubelet for more than 27 s: its processes "
                    "were frozen, or got no CPU or memory; if it comes again, raise cluster.head.resources or look at "
                    "the node",
                )
            ),
            id="it is frozen",
        ),
        pytest.param(None, HeadFine(), id="it answers"),
    ],
)
def test_a_driver_that_does_not_answer_its_kubelet_is_given_up(silent_s: float | None, verdict: HeadVerdict) -> None:
    since = None if silent_s is None else NOW - silent_s
    silent = head(ready=False, silent_since=since, unready_since=since and since - 2)
    assert _judge(observed([silent])) == verdict


def test_a_driver_that_has_no_time_for_its_probe_may_be_saving() -> None:
    going = head(terminating=True, gone_by=NOW, ready=False, driver=container(CONTAINER_DRIVER, ready=False))
    assert isinstance(_judge(observed([going])), HeadStopping)
    lost = head(terminating=True, gone_by=NOW, ready=False, driver=container(CONTAINER_DRIVER))
    assert isinstance(_judge(observed([lost])), HeadLost), "it is its node that does not answer"


def _starting(**fields: Any) -> PodView:
    waiting = {name: container(name, "waiting") for name in (CONTAINER_RAY, CONTAINER_DRIVER)}
    return head(phase="Pending", ready=False, **({"containers": waiting} | fields))


def _ray_only() -> PodView:
    return head(
        driver=container(CONTAINER_DRIVER, "waiting", reason="PodInitializing"),
        ray=container(CONTAINER_RAY, started_at=NOW),
        created_at=NOW - 9_000,
        scheduled_at=NOW - 9_000,
        is_set_up=True,
    )


@pytest.mark.parametrize(
    ("pod", "limit_s"),
    [
        pytest.param(
            _starting(is_set_up=False, scheduled_at=NOW, created_at=NOW - 9_000),
            PREPARE_LIMIT_S,
            id="its volumes, or an older kubelet pulls its image",
        ),
        pytest.param(_ray_only(), START_LIMIT_S, id="its driver, after a long pull of the image"),
    ],
)
def test_what_has_a_limit(pod: PodView, limit_s: float) -> None:
    seen = observed([pod])
    assert _judge(seen, now=NOW) == HeadFine(limit_s)
    assert _judge(seen, now=NOW + limit_s - 1) == HeadFine(1.0)
    for now in (NOW + limit_s, NOW + limit_s + 1):
        verdict = _judge(seen, now=now)
        assert isinstance(verdict, HeadLost)
        assert verdict.trouble.reason == Failure.INIT_STUCK


def test_what_cannot_be_mounted_is_named() -> None:
    verdict = _judge(observed([_starting(is_set_up=False, scheduled_at=NOW)]), now=NOW + PREPARE_LIMIT_S)
    assert isinstance(verdict, HeadLost)
    assert "its image (it mounts claim runs) for 3600 s" in verdict.trouble.message
    keys = [
        {"name": "k", "mountPath": "/k", "secretName": "keys"},
        {"name": "d", "mountPath": "/d", "claimName": "data"},
    ]
    spec = builders.job({"cluster": {"volumes": keys}}).spec
    verdict = judge_head(
        observed([_starting(is_set_up=False, scheduled_at=NOW)]),
        replace(job(), spec=spec),
        1,
        now=NOW + PREPARE_LIMIT_S,
    )
    assert isinstance(verdict, HeadLost)
    assert "(it mounts claim runs, Secret keys, claim data)" in verdict.trouble.message


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(_starting(scheduled_at=None, unschedulable="0/1 nodes"), id="for a node"),
        pytest.param(_starting(scheduled_at=None), id="for the scheduler"),
        pytest.param(_starting(), id="for its image"),
        pytest.param(
            _starting(
                is_set_up=False,
                containers={CONTAINER_RAY: container(CONTAINER_RAY, "waiting", reason="ErrImagePull")},
            ),
            id="for an image that cannot be pulled",
        ),
    ],
)
def test_it_may_wait_for_ever(pod: PodView) -> None:
    assert _judge(observed([pod]), now=NOW + 100_000) == HeadFine()


@pytest.mark.parametrize(
    ("seen", "counts"),
    [
        pytest.param(observed(), False, id="it went while the operator was away"),
        pytest.param(_gone(head(), unseen=True), False, id="it went between two lists"),
        pytest.param(_gone(head()), True, id="it was seen to be deleted by force"),
        pytest.param(_gone(head(terminating=True), unseen=True), True, id="it was seen to be being deleted"),
        pytest.param(
            _gone(head(terminating=True, disruption="EvictionByEvictionAPI"), unseen=True),
            False,
            id="it was seen to be drained",
        ),
        pytest.param(
            _gone(head(phase="Failed", driver=ended(CONTAINER_DRIVER, 1)), unseen=True),
            True,
            id="its driver had failed",
        ),
    ],
)
def test_what_counts_of_a_head_that_is_gone(seen: Observed, counts: bool) -> None:
    verdict = _judge(seen)
    assert isinstance(verdict, HeadLost)
    assert verdict.trouble.blameless is not counts
