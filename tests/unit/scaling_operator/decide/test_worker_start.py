"""What keeps a worker from starting, and for how long that may last."""

from __future__ import annotations

from typing import Any

import pytest

from scaling_api.driver import CONTAINER_RAY
from scaling_api.reasons import Failure
from scaling_operator.decide.head_loss import PREPARE_LIMIT_S, START_LIMIT_S
from scaling_operator.decide.types import PodView
from scaling_operator.decide.worker_start import hindrance

from .builders import NOW, container, head, worker

# What keeps it from starting was seen at NOW - 59 first; Ray on the head has run since NOW - 10.
_LEFT_S = START_LIMIT_S - 10


def _waiting(reason: str = "", **fields: Any) -> PodView:
    ray = container(CONTAINER_RAY, "waiting", reason=reason, message="no such thing")
    return worker(0, phase="Pending", ready=False, **{"containers": {CONTAINER_RAY: ray}} | fields)


def _refused(reason: str, **fields: Any) -> PodView:
    return _waiting(reason, **{"scheduled_at": NOW - 9_000, "obstructed_since": NOW - 59} | fields)


def _silent(started_at: float) -> PodView:
    return worker(
        0, ready=False, containers={CONTAINER_RAY: container(CONTAINER_RAY, started_at=started_at, is_up=False)}
    )


@pytest.mark.parametrize(
    ("pod", "reason", "says", "left_s"),
    [
        pytest.param(
            _refused("ImagePullBackOff"), Failure.IMAGE_PULL_FAILED, "ImagePullBackOff", _LEFT_S, id="no image"
        ),
        pytest.param(
            _refused("ErrImagePull", obstructed_since=NOW - 1),
            Failure.IMAGE_PULL_FAILED,
            "ErrImagePull",
            START_LIMIT_S - 1,
            id="a long pull has failed just now",
        ),
        pytest.param(
            _refused("CreateContainerError"), Failure.CONTAINER_CONFIG, "no such thing", _LEFT_S, id="no container"
        ),
        pytest.param(
            _waiting("ContainerCreating", is_set_up=False),
            Failure.INIT_STUCK,
            "its volumes, its network or, before Kubernetes 1.36, its image for 3600 s",
            PREPARE_LIMIT_S - 10,
            id="no volume, or an older kubelet pulls its image",
        ),
        pytest.param(
            _refused("ErrImagePull", is_set_up=False),
            Failure.IMAGE_PULL_FAILED,
            "ErrImagePull",
            _LEFT_S,
            id="no image, and it is known",
        ),
        pytest.param(
            _silent(NOW - 30), Failure.INIT_STUCK, "Ray did not come up", _LEFT_S, id="it has waited for the head"
        ),
        pytest.param(
            _silent(NOW - 3), Failure.INIT_STUCK, "Ray did not come up", START_LIMIT_S - 3, id="it came after the head"
        ),
    ],
)
def test_what_has_a_limit(pod: PodView, reason: Failure, says: str, left_s: float) -> None:
    found = hindrance(pod, head(), now=NOW)
    assert found is not None
    assert (found.trouble.reason, found.left_s) == (reason, left_s)
    assert says in found.trouble.message


@pytest.mark.parametrize(
    ("pod", "of_head"),
    [
        pytest.param(worker(0), head(), id="it is up"),
        pytest.param(worker(0, ready=False), head(), id="it was up, and its node is silent"),
        pytest.param(_waiting("ContainerCreating"), head(), id="its image is being pulled"),
        pytest.param(
            _waiting(unschedulable="no room", scheduled_at=None, containers={}), head(), id="there is no room for it"
        ),
        pytest.param(_refused("ErrImagePull"), None, id="no head"),
        pytest.param(
            _refused("ErrImagePull"),
            head(ray=container(CONTAINER_RAY, "waiting", reason="ErrImagePull")),
            id="the head meets the same",
        ),
        pytest.param(_silent(NOW - 900), head(ray=container(CONTAINER_RAY, "waiting")), id="there is no head to join"),
    ],
)
def test_what_has_none(pod: PodView, of_head: PodView | None) -> None:
    assert hindrance(pod, of_head, now=NOW) is None
