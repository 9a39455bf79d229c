"""How jobs end, fail, are refused, and outlive their operator; on simulated nodes, where pods end as a test says.

API server, scheduler, garbage collector and operator are real; containers are not, so a minute of a job's life
passes in seconds and a driver can be made to end in any way.
"""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from tests.cluster.kube.access import Access
from tests.cluster.kube.client import Object, condition_status, wait_until
from tests.cluster.scenarios.conftest import Operator, RunJob
from tests.cluster.scenarios.jobs import JOBS, QUOTA, Job, allow_pods

pytestmark = pytest.mark.usefixtures("simulated_nodes")

SIMULATED = {
    "spec": {
        "nodeSelector": {"type": "simulated"},
        "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
    }
}


@pytest.fixture
def simulate(run_job: RunJob) -> RunJob:
    """Like run_job, on simulated nodes."""

    def run(name: str, *, cluster: dict[str, Any] | None = None, **options: Any) -> Job:
        return run_job(name, cluster={"podOverrides": SIMULATED, **(cluster or {})}, **options)

    return run


def _end_driver(job: Job, attempt: int, *, code: int, **how: str) -> None:
    """Let the driver of an attempt end with an exit code, once its pod is there."""
    name = f"{job.name}-{attempt}-head"
    job.client.wait_for("pods", name, job.namespace, lambda pod: pod["status"].get("phase") == "Running", timeout_s=60)
    job.client.annotate("pods", name, job.namespace, exit_code=str(code), exit_container="driver", **how)


def _condition(job: Object, kind: str) -> Object:
    found: Object = next(c for c in job["status"]["conditions"] if c["type"] == kind)
    return found


def test_a_driver_that_refuses_fails_the_job_at_once(simulate: RunJob) -> None:
    job = simulate("refused")
    sentence = '{"reason":"UserError","message":"training.batchSize is too large for this data set"}'
    _end_driver(job, 1, code=78, exit_message=sentence)

    failed = job.wait_condition("Failed", timeout_s=60)
    assert _condition(failed, "Failed")["reason"] == "UserError"
    assert "training.batchSize" in _condition(failed, "Failed")["message"]
    assert failed["status"]["attempt"] == 1, "what is the user's to mend is not tried again"
    wait_until(lambda: job.owned() == [], timeout_s=60)


def test_failures_are_retried_until_the_limit_and_say_what_helps(simulate: RunJob) -> None:
    job = simulate("unlucky", run_policy={"backoffLimit": 1})
    _end_driver(job, 1, code=137, exit_reason="OOMKilled")
    _end_driver(job, 2, code=1, exit_message='{"reason":"DriverFailed","message":"KeyError: loss"}')

    failed = job.wait_condition("Failed", timeout_s=60)
    first, second = failed["status"]["attempts"]
    assert first["reason"] == "OutOfMemory"
    assert "resources.limits.memory" in first["message"]
    assert second["reason"] == "DriverFailed"
    assert _condition(failed, "Failed")["reason"] == "BackoffLimitExceeded"
    assert "KeyError: loss" in _condition(failed, "Failed")["message"]
    # Events follow the status.
    wait_until(lambda: {"OutOfMemory", "Retrying", "BackoffLimitExceeded"} <= set(job.events()))


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("All", set()),
        ("Running", {"policy-1-head"}),
        ("None", {"policy-1-head", "policy-1-cpu-0-0", "policy-1-cpu-1-0"}),
    ],
)
def test_the_end_of_a_job_cleans_as_its_policy_says(simulate: RunJob, policy: str, kept: set[str]) -> None:
    job = simulate("policy", run_policy={"cleanPodPolicy": policy})
    # Workers come when the head has its node.
    wait_until(lambda: len(job.pod_uids()) == 3)
    _end_driver(job, 1, code=0)
    job.wait_condition("Succeeded", timeout_s=60)

    wait_until(lambda: set(job.pod_uids()) == kept, timeout_s=60)
    time.sleep(1)  # what should stay, stays
    assert set(job.pod_uids()) == kept


def test_a_job_that_is_active_for_too_long_fails_and_frees_its_pods(simulate: RunJob) -> None:
    job = simulate("slow", run_policy={"activeDeadlineSeconds": 5})
    failed = job.wait_condition("Failed", timeout_s=60)
    assert _condition(failed, "Failed")["reason"] == "DeadlineExceeded"
    wait_until(lambda: job.owned() == [], timeout_s=60)


def test_a_finished_job_is_deleted_after_its_time(simulate: RunJob, cluster: Access, namespace: str) -> None:
    job = simulate("brief", run_policy={"ttlSecondsAfterFinished": 2})
    _end_driver(job, 1, code=0)
    cluster.client.wait_gone(JOBS, "brief", namespace, timeout_s=60)
    assert (job.storage).is_dir(), "storage is never touched"


def test_nothing_is_made_until_resumed_nor_beside_what_others_have(simulate: RunJob, cluster: Access) -> None:
    job = simulate("later", run_policy={"suspend": True})
    suspended = job.wait_condition("Suspended", timeout_s=30)
    assert suspended["status"].get("attempt") is None
    assert job.owned() == []
    # A name that the first attempt needs, and that somebody has.
    secret: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "later-1"}}
    theirs = cluster.client.create(secret, job.namespace)
    job.suspend(False)

    def is_taken(item: Object) -> bool:
        return any("later-1 exists and is not" in c["message"] for c in item["status"]["conditions"])

    job.wait(is_taken, timeout_s=60)
    assert job.owned() == []
    job.suspend(True)
    job.wait_condition("Suspended", timeout_s=60)
    # An edit and the end of suspension in one request.
    job.patch({"spec": {"runPolicy": {"suspend": False}, "training": {"epochs": 7}}})
    job.wait_condition("ClusterReady", timeout_s=60)
    assert job.status()["attempt"] == 2
    assert cluster.client.get("secrets", "later-1", job.namespace) == theirs


def test_a_head_that_no_node_can_hold_is_said_with_the_schedulers_words_and_holds_no_workers(simulate: RunJob) -> None:
    huge = {"requests": {"cpu": "5000"}, "limits": {"cpu": "5000"}}
    job = simulate("huge", workers=1, cluster={"head": {"resources": huge}})

    def unschedulable(item: Object) -> bool:
        return any(c["reason"] == "Unschedulable" for c in item.get("status", {}).get("conditions", []))

    waiting = job.wait(unschedulable, timeout_s=60)
    assert waiting["status"]["phase"] == "Pending"
    assert "Insufficient cpu" in _condition(waiting, "ClusterReady")["message"]
    assert list(job.pod_uids()) == ["huge-1-head"]


def test_a_quota_shows_in_the_status_and_its_end_heals(simulate: RunJob, cluster: Access, namespace: str) -> None:
    allow_pods(cluster.client, namespace, 2)
    job = simulate("crowded")

    def refused(item: Object) -> bool:
        return any(c["reason"] == "RefusedByAPIServer" for c in item.get("status", {}).get("conditions", []))

    waiting = job.wait(refused, timeout_s=60)
    assert f"exceeded quota: {QUOTA}" in _condition(waiting, "ClusterReady")["message"]
    cluster.client.delete("resourcequotas", QUOTA, namespace)
    job.wait_condition("ClusterReady", timeout_s=90)


def test_pod_overrides_beyond_what_is_allowed_are_named_and_mended_by_an_edit(simulate: RunJob) -> None:
    spec = {**SIMULATED["spec"], "hostNetwork": True}
    job = simulate("sly", cluster={"podOverrides": {"spec": spec}})
    rejected = job.wait_condition("Accepted", "False", timeout_s=30)
    assert _condition(rejected, "Accepted")["reason"] == "InvalidSpec"
    assert "hostNetwork" in _condition(rejected, "Accepted")["message"]
    assert job.owned() == []
    job.patch({"spec": {"cluster": {"podOverrides": {"spec": {"hostNetwork": None}}}}})
    job.wait_condition("ClusterReady", timeout_s=60)


def test_the_second_operator_takes_over_from_the_first(simulate: RunJob, operator: Operator, cluster: Access) -> None:
    before = simulate("before")
    before.wait_condition("ClusterReady", timeout_s=60)
    pods = before.pod_uids()
    operator.scale(2)
    try:
        first = operator.wait_leader()
        operator.delete_pod(first, grace_period_s=0)  # it cannot give its lease back

        after = simulate("after")
        after.wait_condition("ClusterReady", timeout_s=90)
        assert operator.wait_leader() != first
        assert before.pod_uids() == pods, "a running job does not notice"
        _end_driver(before, 1, code=0)
        before.wait_condition("Succeeded", timeout_s=60)
        # Exactly one of each: two leaders would have made, or broken, more.
        assert sorted(after.pod_uids()) == ["after-1-cpu-0-0", "after-1-cpu-1-0", "after-1-head"]
        assert condition_status(after.read(), "Failed") is None
    finally:
        operator.scale(1)
        operator.wait_leader()


def test_a_successor_does_not_wait_for_the_garbage_collector(simulate: RunJob, cluster: Access) -> None:
    if cluster.own is None:
        pytest.skip("the garbage collector can be frozen in clusters of tests.cluster.kube only")
    first = simulate("heir")
    first.wait_condition("ClusterReady", timeout_s=60)
    left = first.pod_uids()
    cluster.own.namespaces.signal("controller-manager", signal.SIGSTOP)
    try:
        cluster.client.delete(JOBS, "heir", first.namespace)
        cluster.client.wait_gone(JOBS, "heir", first.namespace)
        second = simulate("heir")
        second.wait_condition("ClusterReady", timeout_s=60)
        pods = second.pod_uids()
        assert pods.keys() == left.keys()
        assert not set(pods.values()) & set(left.values())
    finally:
        cluster.own.namespaces.signal("controller-manager", signal.SIGCONT)
