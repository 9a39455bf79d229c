"""One job, from its start to its end, and everything that may happen to it on the way.

Real Ray pods train on the test cluster's real node, and each start costs tens of seconds of CPU on a small machine. So
the tests of this module share a job: they run in this order, and each takes it as the one before left it. A test that
runs alone, or after one that failed, begins with a job of its own. The operator logs all it can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import scaling_api.names as names
from scaling_api.names import WorkerSlot
from tests.cluster.conftest import StorageClaim, fresh_claim, fresh_namespace
from tests.cluster.kube.access import Access
from tests.cluster.kube.client import ApiError, Object, condition_status, wait_until
from tests.cluster.scenarios import leaks
from tests.cluster.scenarios.conftest import OPERATOR_NAMESPACE, Operator, RunJob, running
from tests.cluster.scenarios.jobs import JOBS, Job, paced
from tests.outcome import FAILED

# All that is done to it takes half of them, and a slow machine trains slower as well.
EPOCHS = 80


@pytest.fixture(scope="module")
def namespace(cluster: Access) -> Iterator[str]:
    with fresh_namespace(cluster.client) as name:
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}}
        cluster.client.create({**secret, "stringData": {"key": "s3cr3t-of-a-user"}}, name)
        yield name


@pytest.fixture(scope="module")
def storage_claim(cluster: Access, namespace: str) -> Iterator[StorageClaim]:
    with fresh_claim(cluster, namespace) as claim:
        yield claim


@pytest.fixture(scope="module")
def run_job(operator: Operator, cluster: Access, namespace: str, storage_claim: StorageClaim) -> Iterator[RunJob]:
    with (
        operator.configured(SCALING_OPERATOR_LOG_LEVEL="DEBUG"),
        running(cluster, namespace, storage_claim) as run,
    ):
        yield run


@dataclass
class Shared:
    """The job at work, and how many there were."""

    job: Job | None = None
    count: int = 0


@pytest.fixture(scope="module")
def shared() -> Shared:
    return Shared()


@pytest.fixture
def job(
    shared: Shared, run_job: RunJob, storage_claim: StorageClaim, cluster: Access, request: pytest.FixtureRequest
) -> Iterator[Job]:
    """The job, training or evaluating."""
    if shared.job is None:
        shared.count += 1
        for word in ("hurry", "go"):
            (storage_claim.folder / word).unlink(missing_ok=True)
        shared.job = run_job(
            f"long-{shared.count}",
            **paced(storage_claim.folder, epochs=EPOCHS),
            cluster={
                "env": [{"name": "API_KEY", "secretKeyRef": {"name": "keys", "key": "key"}}],
                # Long enough that the node does not end a frozen head before the next one trains.
                "podOverrides": {"spec": {"terminationGracePeriodSeconds": 900}},
            },
            run_policy={"cleanPodPolicy": "None", "backoffLimit": 6},
        )
        shared.job.wait_checkpoint(1)
    job = shared.job
    yield job
    if request.node.stash.get(FAILED, False):
        shared.job = None
        cluster.client.delete(JOBS, job.name, job.namespace)
        cluster.client.delete_all("pods", job.namespace, grace_period_s=0)
    else:
        assert leaks.found(cluster, job.namespace, OPERATOR_NAMESPACE) == []


def _attempt(job: Job) -> int:
    number: int = job.status()["attempt"]
    return number


def _of(job: Object, attempt: int) -> Object:
    """An attempt as the status tells of it."""
    return next(one for one in job["status"]["attempts"] if one["number"] == attempt)


def _assert_resumed(job: Job, attempt: int, reached: str, *, reason: str | tuple[str, ...]) -> None:
    """A new attempt trains on from where the lost one had been, and the status tells why it was lost."""
    job.wait_checkpoint(attempt + 1)
    assert job.base_of(attempt + 1) >= reached, "the next attempt went on where the last one had been"
    lost, now = job.status()["attempts"][-2:]
    assert (lost["number"], lost["outcome"], now["number"]) == (attempt, "Failed", attempt + 1)
    assert lost["reason"] in ((reason,) if isinstance(reason, str) else reason)


def test_what_is_logged_holds_no_secret(job: Job, cluster: Access) -> None:
    assert leaks.found(cluster, job.namespace, OPERATOR_NAMESPACE) == []
    # It would be seen: what the head's log does hold is found in the same way.
    cluster.client.patch("secrets", "keys", {"stringData": {"seen": "stage train begins"}}, job.namespace)
    head = job.head()["metadata"]["name"]
    assert leaks.found(cluster, job.namespace) == [f"the log of {head}/driver holds keys/seen"]
    cluster.client.patch("secrets", "keys", {"data": {"seen": None}}, job.namespace)


def test_lost_workers_are_replaced_and_training_goes_on(job: Job, cluster: Access) -> None:
    attempt, head = _attempt(job), job.head()["metadata"]["uid"]
    before = job.status().get("failures", 0)

    def incarnation(slot: str) -> int:
        number: int = job.status().get("incarnations", {}).get(slot, 0)
        return number

    pod = names.worker_pod(job.name, attempt, WorkerSlot("cpu", 1), incarnation("cpu-1"))
    first = incarnation("cpu-1")
    cluster.client.delete("pods", pod, job.namespace, grace_period_s=0)
    wait_until(lambda: incarnation("cpu-1") > first, timeout_s=30)
    job.wait_progress(attempt)

    # One that is frozen closes no connection and looks alive to everybody but to who asks it.
    second = incarnation("cpu-0")
    pod = names.worker_pod(job.name, attempt, WorkerSlot("cpu", 0), second)
    in_ray = ("-n", job.namespace, "exec", pod, "-c", "ray", "--")
    address = f"--address={job.name}-{attempt}.{job.namespace}.svc.cluster.local.:"
    assert address in cluster.kubectl(*in_ray, "cat", "/proc/1/cmdline"), "an absolute name costs DNS the least"
    cluster.kubectl(*in_ray, "bash", "-c", "kill -STOP -1")
    wait_until(lambda: incarnation("cpu-0") > second, timeout_s=90)
    job.wait_progress(attempt)

    assert (_attempt(job), job.status().get("failures", 0)) == (attempt, before), "a worker's loss costs no attempt"
    assert job.head()["metadata"]["uid"] == head
    assert job.status()["workerGroups"][0]["replaced"] >= 2
    assert "did not answer its kubelet" in job.notes("WorkerReplaced"), "it is the frozen one"


def test_an_upgrade_of_the_operator_goes_unnoticed_and_edits_are_refused_or_followed(
    job: Job, operator: Operator
) -> None:
    attempt, before = _attempt(job), job.pod_uids()
    image = job.head()["spec"]["containers"][0]["image"]
    saved = len(job.checkpoints(attempt))
    with operator.configured(SCALING_OPERATOR_RUNTIME_IMAGE="scaling-runtime:next"):
        reported = job.status()["progress"]["updatedAt"]
        job.wait(lambda item: item["status"]["progress"]["updatedAt"] > reported, timeout_s=60)
        assert job.pod_uids() == before
        assert len(job.checkpoints(attempt)) >= min(saved, 2)
        assert _attempt(job) == attempt

        # An edit of what is frozen is refused with a sentence; one of the worker count is followed.
        with pytest.raises(ApiError, match="suspend"):
            job.patch({"spec": {"training": {"epochs": 3}}})
        workers = job.read()["spec"]["cluster"]["workers"]
        added = names.worker_pod(job.name, attempt, WorkerSlot("cpu", 2), 0)
        job.patch({"spec": {"cluster": {"workers": [workers[0] | {"max": 3}]}}})
        wait_until(lambda: added in job.pod_uids(), timeout_s=30)
        # As process 1 of its container Ray's command heeds no SIGTERM in its first seconds, whatever the grace period.
        job.wait(lambda item: item["status"]["workers"] == "3/3", timeout_s=60)
        container = job.client.get("pods", added, job.namespace)["spec"]["containers"][0]
        assert container["image"] == image, "versions are not mixed within an attempt"
        job.patch({"spec": {"cluster": {"workers": [workers[0] | {"max": 2}]}}})
        wait_until(lambda: job.pod_uids() == before, timeout_s=60)


def test_suspend_saves_and_releases_and_resume_goes_on(job: Job) -> None:
    attempt, failures = _attempt(job), job.status().get("failures", 0)

    job.suspend(True)
    suspended = job.wait_condition("Suspended", timeout_s=90)
    assert suspended["status"]["phase"] == "Suspended"
    assert job.owned() == [], "a suspended job holds nothing, whatever its policy for the end"
    assert suspended["status"]["attempts"][-1]["outcome"] == "Suspended"
    saved = job.checkpoints(attempt)[-1]

    job.suspend(False)
    job.wait_checkpoint(attempt + 1)
    assert job.base_of(attempt + 1) == saved.name
    assert job.status().get("failures", 0) == failures, "suspension is no failure"


def test_a_lost_head_leads_to_an_attempt_that_resumes(job: Job, cluster: Access) -> None:
    attempt, failures = _attempt(job), job.status().get("failures", 0)
    reached = job.wait_checkpoint(attempt)

    cluster.client.delete("pods", names.head_pod(job.name, attempt), job.namespace, grace_period_s=0)

    _assert_resumed(job, attempt, reached.name, reason="PodDeleted")
    assert job.status()["failures"] == failures + 1


def test_a_restarted_ray_container_is_a_lost_head(job: Job, cluster: Access) -> None:
    attempt = _attempt(job)
    reached = job.wait_checkpoint(attempt)

    head = names.head_pod(job.name, attempt)
    cluster.kubectl("-n", job.namespace, "exec", head, "-c", "ray", "--", "pkill", "-9", "gcs_server")

    _assert_resumed(job, attempt, reached.name, reason=("RayContainerRestarted", "DriverFailed"))


def test_a_frozen_head_is_found_and_damages_nothing_when_it_wakes_up(job: Job, cluster: Access) -> None:
    attempt = _attempt(job)
    head = names.head_pod(job.name, attempt)

    def send(signal: str) -> None:
        """To all processes of the pod, on a healthy node: no connection is closed, and all look alive."""
        command = ("bash", "-c", f"kill {signal} -1")
        cluster.kubectl("-n", job.namespace, "exec", head, "-c", "driver", "--", *command, check=False)

    reached = job.wait_checkpoint(attempt)
    send("-STOP")
    found = job.wait(lambda item: "outcome" in _of(item, attempt), timeout_s=60)
    lost = _of(found, attempt)
    assert f"driver of pod {head} did not answer its kubelet" in lost["message"]
    _assert_resumed(job, attempt, reached.name, reason="Unresponsive")
    assert job.client.get("pods", head, job.namespace)["metadata"]["deletionTimestamp"]
    send("-CONT")
    job.client.wait_gone("pods", head, job.namespace, timeout_s=150)

    job.wait_progress(attempt + 1)
    assert _attempt(job) == job.status()["reportedAttempt"] == attempt + 1


def test_suspended_while_it_evaluates_a_job_trains_nothing_twice(job: Job, storage_claim: StorageClaim) -> None:
    attempt = _attempt(job)
    failures = job.status().get("failures", 0)
    (storage_claim.folder / "hurry").touch()
    job.wait(lambda item: item["status"].get("progress", {}).get("stage") == "evaluate", timeout_s=150)

    job.suspend(True)
    suspended = job.wait_condition("Suspended", timeout_s=90)
    assert suspended["status"]["attempts"][-1]["outcome"] == "Suspended"
    assert next(stage["state"] for stage in suspended["status"]["stages"] if stage["name"] == "evaluate") == "Pending"
    assert job.owned() == []

    job.suspend(False)
    wait_until(lambda: job.status()["attempt"] == attempt + 1, timeout_s=60)
    job.wait_condition("Running", timeout_s=120)
    assert job.status().get("failures", 0) == failures
    assert job.checkpoints(attempt + 1) == [], "what was finished is not done again"


def test_a_job_that_ends_while_the_operator_is_away_has_its_result(
    job: Job, operator: Operator, cluster: Access, storage_claim: StorageClaim
) -> None:
    job.wait(lambda item: item["status"]["phase"] == "Running", timeout_s=120)
    attempt = _attempt(job)
    operator.scale(0)
    try:
        wait_until(lambda: not operator.pods(), timeout_s=60)
        for word in ("hurry", "go"):
            (storage_claim.folder / word).touch()
        head = names.head_pod(job.name, attempt)
        cluster.client.wait_for(
            "pods", head, job.namespace, lambda pod: pod["status"]["phase"] == "Succeeded", timeout_s=240
        )
        before = job.status()
        assert before["phase"] == "Running"
        assert "result" not in before
    finally:
        operator.scale(1)

    status = job.wait_succeeded()["status"]
    assert status["attempt"] == attempt
    result = job.result()
    assert result["attempt"] == attempt
    assert status["result"]["metrics"]["accuracy"] == pytest.approx(result["metrics"]["test"]["accuracy"])
    assert status["result"]["metrics"]["accuracy"] > 0.9
    assert {artifact["name"]: artifact["uri"] for artifact in status["result"]["artifacts"]} == result["artifacts"]
    assert {stage["state"] for stage in status["stages"]} <= {"Succeeded", "Reused"}
    assert (status["progress"]["stage"], status["progress"]["summary"]) == ("report", "done")
    # Whatever has happened to it on the way.
    assert [row["epoch"] for row in job.curve()] == list(range(1, EPOCHS + 1)), "no epoch is missing or doubled"
    assert condition_status({"status": status}, "Failed") != "True"
