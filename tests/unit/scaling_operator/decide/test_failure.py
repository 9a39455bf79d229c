"""Why pods end and why they wait."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scaling_api.driver import CONTAINER_DRIVER, CONTAINER_RAY, ExitCode
from scaling_api.reasons import Failure
from scaling_operator.decide.failure import SLOW_AFTER_S, UNSCHEDULABLE_AFTER_S, known_in_s, why_ended, why_waiting
from scaling_operator.decide.types import PodView

from .builders import NOW, container, ended, head, worker

_STOPPED = json.dumps({"reason": "DriverStopped", "message": "stopped on request; what was done is saved"})
_NO_GCS = json.dumps({"reason": "DriverFailed", "message": "RuntimeError: failed to connect to GCS"})
_SILENT = json.dumps({"reason": "Unresponsive", "message": "the head's raylet did not answer the driver for 30 s"})
_TOLD = json.dumps({"reason": "OutOfMemory", "message": "Ray killed rank 1; lower training.batchSize"})


@pytest.mark.parametrize(
    ("pod", "reason", "says"),
    [
        pytest.param(
            head(phase="Failed", driver=ended(CONTAINER_DRIVER, 1, message=_TOLD)),
            Failure.OUT_OF_MEMORY,
            "Ray killed rank 1",
            id="the driver's own word comes first",
        ),
        pytest.param(
            head(phase="Failed", driver=ended(CONTAINER_DRIVER, ExitCode.REFUSED, message="no such model")),
            Failure.USER_ERROR,
            "no such model",
            id="a refusal without JSON is still the user's",
        ),
        pytest.param(
            head(phase="Failed", driver=ended(CONTAINER_DRIVER, 1, message='{"reason": "Nonsense", "message": "x"}')),
            Failure.DRIVER_FAILED,
            "exit code 1",
            id="a reason that nobody knows is not believed",
        ),
        pytest.param(
            head(phase="Failed", driver=ended(CONTAINER_DRIVER, 1, message="[" * 4096)),
            Failure.DRIVER_FAILED,
            "exit code 1",
            id="a message that is nested without end says nothing",
        ),
        pytest.param(
            head(
                phase="Failed",
                driver=ended(CONTAINER_DRIVER, 1, message="a\n\nb\nTraceback:\n  File x\nValueError: y\n"),
            ),
            Failure.DRIVER_FAILED,
            "exit code 1: Traceback: | File x | ValueError: y;",
            id="of a log the end is shown",
        ),
        pytest.param(
            head(
                phase="Failed",
                driver=ended(CONTAINER_DRIVER, 1, message="OSError: GET https://me:pass@h/a?sig=abc failed"),
            ),
            Failure.DRIVER_FAILED,
            "OSError: GET https://***@h/a?sig=*** failed;",
            id="of URIs in it no secret is shown",
        ),
        pytest.param(
            worker(
                0,
                phase="Failed",
                containers={
                    "istio-proxy": ended("istio-proxy", 137, reason="OOMKilled"),
                    CONTAINER_RAY: ended(CONTAINER_RAY, 1, message="it broke"),
                },
            ),
            Failure.DRIVER_FAILED,
            "container ray of pod mnist-1-cpu-0-0 ended with exit code 1: it broke",
            id="what becomes of a container that others put beside it says nothing",
        ),
        pytest.param(
            head(phase="Failed", driver=ended(CONTAINER_DRIVER, ExitCode.STOPPED)),
            Failure.STOPPED,
            "asked to stop",
            id="the driver was stopped by somebody else",
        ),
        pytest.param(
            head(phase="Failed", driver=ended(CONTAINER_DRIVER, 137, reason="OOMKilled")),
            Failure.OUT_OF_MEMORY,
            "raise cluster.head.resources.limits.memory",
            id="the head's driver was killed for its memory",
        ),
        pytest.param(
            worker(0, phase="Failed", containers={CONTAINER_RAY: ended(CONTAINER_RAY, 137, reason="OOMKilled")}),
            Failure.OUT_OF_MEMORY,
            "raise cluster.workers[cpu].resources.limits.memory",
            id="a worker was killed for its memory",
        ),
        pytest.param(
            worker(0, phase="Failed", containers={CONTAINER_RAY: ended(CONTAINER_RAY, 137, reason="Error")}),
            Failure.OUT_OF_MEMORY,
            "most likely for lack of memory",
            id="SIGKILL alone means memory most of the time",
        ),
        pytest.param(
            head(phase="Failed", unready_since=NOW - 26, driver=ended(CONTAINER_DRIVER, 137, ran=(NOW - 90, NOW))),
            Failure.UNRESPONSIVE,
            "driver of pod mnist-1-head did not answer its kubelet for more than 26 s",
            id="a driver that was not ready long before its end was ended for its silence",
        ),
        pytest.param(
            head(phase="Failed", unready_since=NOW, driver=ended(CONTAINER_DRIVER, 137, ran=(NOW - 90, NOW - 1))),
            Failure.OUT_OF_MEMORY,
            "exit code 137",
            id="one that was ready to its end was not",
        ),
        pytest.param(
            head(phase="Failed", unready_since=NOW - 999, driver=ended(CONTAINER_DRIVER, 137, ran=(NOW - 905, NOW))),
            Failure.OUT_OF_MEMORY,
            "exit code 137",
            id="nor one of 0.1.0, which has no port to be asked at",
        ),
        pytest.param(
            head(
                phase="Failed",
                unready_since=NOW - 26,
                driver=ended(CONTAINER_DRIVER, 137, reason="OOMKilled", ran=(NOW - 90, NOW)),
            ),
            Failure.OUT_OF_MEMORY,
            "more memory than its limit",
            id="who is short of memory may be silent before",
        ),
        pytest.param(
            head(
                phase="Failed",
                unready_since=NOW - 26,
                driver=ended(CONTAINER_DRIVER, ExitCode.STOPPED, message=_STOPPED, ran=(NOW - 90, NOW)),
            ),
            Failure.UNRESPONSIVE,
            "raise cluster.head.resources",
            id="one that wakes up as it is ended may heed SIGTERM",
        ),
        pytest.param(
            head(
                phase="Failed",
                terminating=True,
                unready_since=NOW - 26,
                driver=ended(CONTAINER_DRIVER, 137, ran=(NOW - 90, NOW)),
            ),
            Failure.POD_DELETED,
            "was deleted",
            id="a deletion explains the end of a frozen driver",
        ),
        pytest.param(
            worker(
                0,
                phase="Failed",
                unready_since=NOW - 4,
                containers={CONTAINER_RAY: ended(CONTAINER_RAY, 137, ran=(NOW - 90, NOW))},
            ),
            Failure.UNRESPONSIVE,
            "raise cluster.workers[cpu].resources",
            id="a frozen worker",
        ),
        pytest.param(
            worker(
                0,
                phase="Failed",
                unready_since=NOW - 25,
                containers={CONTAINER_RAY: ended(CONTAINER_RAY, 1, ran=(NOW - 90, NOW))},
            ),
            Failure.UNRESPONSIVE,
            "container ray of pod mnist-1-cpu-0-0 did not answer its kubelet for more than 25 s",
            id="one whose raylet alone is frozen ends in order",
        ),
        pytest.param(
            worker(
                0,
                phase="Failed",
                unready_since=NOW,
                containers={CONTAINER_RAY: ended(CONTAINER_RAY, 1, ran=(NOW - 90, NOW))},
            ),
            Failure.DRIVER_FAILED,
            "ended with exit code 1",
            id="a worker whose raylet crashes is not ready from then on",
        ),
        pytest.param(
            worker(
                0,
                phase="Failed",
                unready_since=NOW - 999,
                containers={CONTAINER_RAY: ended(CONTAINER_RAY, 137, ran=(NOW - 900, NOW))},
            ),
            Failure.OUT_OF_MEMORY,
            "exit code 137",
            id="a worker that has waited for its head was never ready",
        ),
        pytest.param(
            head(phase="Failed", driver=ended(CONTAINER_DRIVER, ExitCode.RAY_SILENT, message=_SILENT)),
            Failure.UNRESPONSIVE,
            "the head's raylet did not answer the driver for 30 s",
            id="the driver gave up on a frozen Ray",
        ),
        pytest.param(
            head(
                phase="Failed",
                driver=ended(CONTAINER_DRIVER, ExitCode.RAY_SILENT, message=_SILENT),
                ray=ended(CONTAINER_RAY, 137, reason="OOMKilled"),
            ),
            Failure.OUT_OF_MEMORY,
            "container ray",
            id="Ray's memory explains its silence",
        ),
        pytest.param(
            worker(
                0,
                phase="Failed",
                reason="Evicted",
                message="The node was low on resource: memory.",
                containers={CONTAINER_RAY: ended(CONTAINER_RAY, 137, reason="Error")},
            ),
            Failure.EVICTED,
            "The node was low on resource: memory.",
            id="an eviction explains SIGKILL",
        ),
        pytest.param(
            worker(0, terminating=True, containers={CONTAINER_RAY: ended(CONTAINER_RAY, 137, reason="Error")}),
            Failure.POD_DELETED,
            "was deleted",
            id="a deletion explains SIGKILL",
        ),
        pytest.param(
            worker(0, terminating=True, disruption="PreemptionByScheduler"),
            Failure.PREEMPTED,
            "higher priority",
            id="preempted by the scheduler",
        ),
        pytest.param(
            worker(0, terminating=True, disruption="DeletionByTaintManager"),
            Failure.NODE_LOST,
            "stopped answering",
            id="its node was tainted",
        ),
        pytest.param(
            worker(0, terminating=True, disruption="EvictionByEvictionAPI"),
            Failure.EVICTED,
            "draining",
            id="its node was drained",
        ),
        pytest.param(
            head(
                terminating=True,
                disruption="EvictionByEvictionAPI",
                driver=ended(CONTAINER_DRIVER, ExitCode.STOPPED, message=_STOPPED),
            ),
            Failure.EVICTED,
            "draining",
            id="a drain explains why the driver was asked to stop",
        ),
        pytest.param(
            head(
                phase="Failed",
                reason="Terminated",
                disruption="TerminationByKubelet",
                driver=ended(CONTAINER_DRIVER, ExitCode.STOPPED, message=_STOPPED),
            ),
            Failure.PREEMPTED,
            "shut down",
            id="so does the shutdown of its node",
        ),
        pytest.param(
            head(terminating=True, driver=ended(CONTAINER_DRIVER, ExitCode.STOPPED, message=_STOPPED)),
            Failure.POD_DELETED,
            "not by the operator",
            id="and a deletion",
        ),
        pytest.param(
            head(
                phase="Failed",
                reason="Terminated",
                driver=ended(CONTAINER_DRIVER, ExitCode.REFUSED, message='{"reason": "UserError", "message": "no"}'),
            ),
            Failure.USER_ERROR,
            "no",
            id="nothing explains away what the driver refuses",
        ),
        pytest.param(
            head(
                phase="Failed",
                driver=ended(CONTAINER_DRIVER, 1, message=_NO_GCS),
                ray=container(CONTAINER_RAY, restarts=1, reason="OOMKilled"),
            ),
            Failure.RAY_RESTARTED,
            "(OOMKilled)",
            id="the driver dies of Ray's restart",
        ),
        pytest.param(
            head(
                phase="Failed",
                driver=ended(CONTAINER_DRIVER, 1, message=_NO_GCS),
                ray=ended(CONTAINER_RAY, 137, reason="OOMKilled"),
            ),
            Failure.OUT_OF_MEMORY,
            "container ray",
            id="the driver dies of Ray's end",
        ),
        pytest.param(
            head(phase="Failed", driver=ended(CONTAINER_DRIVER, 1, message=_NO_GCS), ray=ended(CONTAINER_RAY, 143)),
            Failure.DRIVER_FAILED,
            "GCS",
            id="Ray is stopped after the driver has ended",
        ),
        pytest.param(worker(0, phase="Failed", reason="NodeLost"), Failure.NODE_LOST, "node", id="its node was lost"),
        pytest.param(
            worker(0, phase="Failed", reason="NodeShutdown"), Failure.PREEMPTED, "shut down", id="its node shut down"
        ),
        pytest.param(
            worker(0, phase="Succeeded", containers={CONTAINER_RAY: ended(CONTAINER_RAY, 0)}),
            Failure.DRIVER_FAILED,
            "exit code 0",
            id="a worker that ends by itself",
        ),
        pytest.param(worker(0, terminating=True), Failure.POD_DELETED, "not by the operator", id="somebody deleted it"),
    ],
)
def test_why_ended(pod: PodView, reason: Failure, says: str) -> None:
    trouble = why_ended(pod)
    assert trouble.reason == reason
    assert says in trouble.message


@pytest.mark.parametrize(
    ("pod", "blameless"),
    [
        pytest.param(head(terminating=True, disruption="EvictionByEvictionAPI"), True, id="its node is drained"),
        pytest.param(head(terminating=True, disruption="PreemptionByScheduler"), True, id="it was preempted"),
        pytest.param(head(terminating=True, disruption="DeletionByTaintManager"), True, id="its node was lost"),
        pytest.param(
            head(phase="Failed", reason="Terminated", disruption="TerminationByKubelet"), True, id="its node shuts down"
        ),
        pytest.param(
            head(phase="Failed", reason="Evicted", disruption="TerminationByKubelet"), False, id="it used too much"
        ),
        pytest.param(head(terminating=True), False, id="somebody deleted it"),
        pytest.param(head(phase="Failed", driver=ended(CONTAINER_DRIVER, 1)), False, id="the driver failed"),
    ],
)
def test_who_is_to_blame(pod: PodView, blameless: bool) -> None:
    assert why_ended(pod).blameless is blameless


def _waiting(**fields: Any) -> PodView:
    return worker(0, phase="Pending", ready=False, **fields)


@pytest.mark.parametrize(
    ("pod", "reason", "says"),
    [
        pytest.param(
            _waiting(unschedulable="0/3 nodes are available: insufficient memory."),
            Failure.UNSCHEDULABLE,
            "insufficient memory",
            id="no node fits",
        ),
        pytest.param(
            head(
                phase="Pending",
                containers={"istio-proxy": container("istio-proxy", "waiting", reason="ErrImagePull", message="no")},
            ),
            Failure.IMAGE_PULL_FAILED,
            "the image of container istio-proxy, which is not the job's",
            id="a container that others put beside it has no image",
        ),
        pytest.param(
            _waiting(
                containers={
                    CONTAINER_RAY: container(
                        CONTAINER_RAY, "waiting", reason="ImagePullBackOff", message='Back-off pulling image "x:1"'
                    )
                }
            ),
            Failure.IMAGE_PULL_FAILED,
            'image "x:1"; check cluster.image',
            id="the image cannot be pulled",
        ),
        pytest.param(
            _waiting(
                containers={
                    CONTAINER_RAY: container(
                        CONTAINER_RAY, "waiting", reason="CreateContainerConfigError", message='secret "s3" not found'
                    )
                }
            ),
            Failure.CONTAINER_CONFIG,
            'secret "s3" not found',
            id="a secret is missing",
        ),
    ],
)
def test_why_waiting(pod: PodView, reason: Failure, says: str) -> None:
    trouble = why_waiting(pod, now=NOW)
    assert trouble is not None
    assert trouble.reason == reason
    assert says in trouble.message


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(_waiting(containers={}), id="nothing is known yet"),
        pytest.param(
            _waiting(containers={CONTAINER_RAY: container(CONTAINER_RAY, "waiting", reason="ContainerCreating")}),
            id="its container is being made",
        ),
        pytest.param(worker(0), id="it runs"),
    ],
)
def test_nothing_keeps_it_from_starting(pod: PodView) -> None:
    assert why_waiting(pod, now=NOW) is None
    assert known_in_s(pod, now=NOW) is None


@pytest.mark.parametrize(
    ("age_s", "shown", "again_s"),
    [
        pytest.param(UNSCHEDULABLE_AFTER_S - 1, False, 1.0, id="just before the limit"),
        pytest.param(UNSCHEDULABLE_AFTER_S, True, None, id="at the limit"),
        pytest.param(UNSCHEDULABLE_AFTER_S + 1, True, None, id="after it"),
    ],
)
def test_the_scheduler_is_given_a_moment(age_s: float, shown: bool, again_s: float | None) -> None:
    pod = _waiting(unschedulable="0/1 nodes", created_at=NOW - age_s)
    assert (why_waiting(pod, now=NOW) is not None) is shown
    assert known_in_s(pod, now=NOW) == again_s


@pytest.mark.parametrize("of_pod", [pytest.param(worker, id="a worker"), pytest.param(head, id="a head")])
@pytest.mark.parametrize(
    ("waits_s", "shown", "again_s"),
    [
        pytest.param(SLOW_AFTER_S - 1, False, 1.0, id="just before the limit"),
        pytest.param(SLOW_AFTER_S, True, None, id="at the limit"),
        pytest.param(SLOW_AFTER_S + 1, True, None, id="after it"),
    ],
)
def test_what_takes_long_before_containers_start(
    of_pod: Any, waits_s: float, shown: bool, again_s: float | None
) -> None:
    fields: dict[str, Any] = {"phase": "Pending", "ready": False, "is_set_up": False, "scheduled_at": NOW - waits_s}
    pod = of_pod(0, **fields) if of_pod is worker else of_pod(**fields)
    trouble = why_waiting(pod, now=NOW)
    assert (trouble is not None) is shown
    assert known_in_s(pod, now=NOW) == again_s
    if trouble is not None:
        assert trouble.reason == Failure.INIT_STUCK
        assert "waits for its volumes, its network or, before Kubernetes 1.36, its image since 20" in trouble.message
