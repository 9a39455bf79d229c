"""From `kubectl apply` to a trained model, and everything that may happen on the way.

Real Ray pods train on the test cluster's real node. Each start costs tens of seconds of CPU on a small machine,
so a job carries as many observations as fit it, and the disturbances that leave a job running share one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

import scaling_api.names as names
from scaling_api.driver import STORAGE_MOUNT
from scaling_api.names import WorkerSlot
from scaling_api.scalars import MAX_JOB_NAME
from tests.cluster.conftest import StorageClaim
from tests.cluster.kube.access import Access
from tests.cluster.kube.client import ApiError, Object, condition_status, wait_until
from tests.cluster.scenarios import leaks
from tests.cluster.scenarios.conftest import OPERATOR_NAMESPACE, Operator, RunJob
from tests.cluster.scenarios.jobs import JOBS, QUOTA, RESOURCES, Job, allow_pods

# Long enough to be disturbed in mid-training, short enough to wait for: some tens of seconds of training.
LONG = {"dataset": "digits", "epochs": 40, "batch_size": 32}


def _epochs(rows: list[dict[str, object]]) -> list[object]:
    return [row["epoch"] for row in rows]


@pytest.fixture
def follow(cluster: Access, namespace: str) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts `scalingjob status --watch` of a job."""
    started: list[subprocess.Popen[str]] = []

    def start(job: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "scaling_cli.main", "status", job, "-n", namespace, "--watch"]
        environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()


def test_apply_leads_to_a_trained_model(
    run_job: RunJob, cluster: Access, namespace: str, follow: Callable[[str], subprocess.Popen[str]]
) -> None:
    training = {
        "optimizer": {"name": "adam", "learningRate": 0.003},
        "schedule": {"name": "one-cycle", "warmupFraction": 0.3},
    }
    job = run_job("mnist", dataset="mnist-5k", epochs=3, batch_size=128, training=training)
    follower = follow("mnist")

    workers: dict[str, str] = {}

    def trained() -> object:
        status = job.status()
        workers.update({pod["metadata"]["name"]: pod["status"].get("podIP", "") for pod in job.pods("worker")})
        assert condition_status({"status": status}, "Failed") != "True", status
        return condition_status({"status": status}, "Succeeded") == "True"

    wait_until(trained, timeout_s=240)

    status = job.status()
    # By slot: on a loaded machine a worker may be replaced.
    assert {name.rpartition("-")[0] for name in workers} == {"mnist-1-cpu-0", "mnist-1-cpu-1"}
    assert len(set(filter(None, workers.values()))) >= 2, "the two workers are two pods on the network"
    assert status["phase"] == "Succeeded"
    assert status["observedGeneration"] == job.read()["metadata"]["generation"]
    assert [stage["state"] for stage in status["stages"]] == ["Succeeded"] * 4
    assert status["result"]["metrics"]["accuracy"] > 0.9
    assert {"accuracy", "precision", "recall", "f1"} <= status["result"]["metrics"].keys()
    assert status["progress"]["firstStepAt"]
    assert [attempt["outcome"] for attempt in status["attempts"]] == ["Succeeded"]
    assert status.get("failures", 0) == 0

    result = job.result()
    assert result["metrics"]["test"]["accuracy"] == pytest.approx(status["result"]["metrics"]["accuracy"])
    assert _epochs(job.curve()) == [1, 2, 3]
    for artifact in status["result"]["artifacts"]:
        assert artifact["uri"]

    table = cluster.kubectl("-n", namespace, "get", "sj").splitlines()
    assert table[0].split() == ["NAME", "STATUS", "STAGE", "PROGRESS", "WORKERS", "SCORE", "AGE"]
    assert table[1].split()[:2] == ["mnist", "Succeeded"]
    # `scalingjob status --watch` has seen it through, and its exit code tells how the job ended.
    told, complaints = follower.communicate(timeout=300)
    assert follower.returncode == 0, complaints
    assert "Succeeded" in told
    # cleanPodPolicy All is the default: of a finished job nothing is left but itself.
    wait_until(lambda: job.owned() == [], timeout_s=60)
    events = job.events()
    assert "AttemptStarted" in events
    assert "Completed" in events


def test_lost_workers_are_replaced_and_training_goes_on(run_job: RunJob, cluster: Access, namespace: str) -> None:
    job = run_job("worker", **LONG)
    reached = job.wait_checkpoint()
    head = job.head()["metadata"]["uid"]

    cluster.client.delete("pods", "worker-1-cpu-1-0", namespace, grace_period_s=0)

    job.wait(lambda item: item["status"].get("incarnations", {}).get("cpu-1", 0) >= 1, timeout_s=30)
    lost_at = job.wait_checkpoint(1).name
    wait_until(lambda: job.newest(1) > lost_at, timeout_s=120)
    assert job.head()["metadata"]["uid"] == head

    # One that is frozen closes no connection and looks alive to everybody but to who asks it.
    before = job.status()["incarnations"].get("cpu-0", 0)
    pod = names.worker_pod(job.name, 1, WorkerSlot("cpu", 0), before)
    started = cluster.kubectl("-n", namespace, "exec", pod, "-c", "ray", "--", "cat", "/proc/1/cmdline")
    assert f"--address=worker-1.{namespace}.svc.cluster.local.:" in started, "an absolute name costs DNS the least"
    cluster.kubectl("-n", namespace, "exec", pod, "-c", "ray", "--", "bash", "-c", "kill -STOP -1")

    job.wait(lambda item: item["status"]["incarnations"].get("cpu-0", 0) > before, timeout_s=90)
    done = job.wait_succeeded()
    assert done["status"]["attempt"] == 1, "a worker's loss costs no attempt"
    assert done["status"].get("failures", 0) == 0
    assert _epochs(job.curve()) == list(range(1, 41)), "no epoch is missing or doubled"
    assert done["status"]["workerGroups"][0]["replaced"] >= 2
    assert "WorkerReplaced" in job.events()
    assert reached.name <= job.checkpoints(1)[-1].name


def test_an_elastic_job_follows_an_edit_of_min_grows_and_goes_on_with_fewer_workers(
    run_job: RunJob, cluster: Access, namespace: str
) -> None:
    # A quota with room for the head and one worker: the spec's two are waited for, until an edit says that one will do.
    allow_pods(cluster.client, namespace, 2)
    group = {"name": "cpu", "min": 2, "max": 2, "resources": RESOURCES}
    # Far longer than the test takes on any machine: the job is deleted in the end.
    elastic = {"parallelism": {}, "checkpoint": {"everySteps": 50}}
    job = run_job("elastic", epochs=5000, batch_size=32, training=elastic, cluster={"workers": [group]})
    job.wait(lambda item: "1 of 2 slots are there" in _says(item, "train"))
    job.patch({"spec": {"cluster": {"workers": [job.read()["spec"]["cluster"]["workers"][0] | {"min": 1}]}}})
    _wait_workers(job, 1)
    cluster.client.delete("resourcequotas", QUOTA, namespace)
    _wait_workers(job, 2)
    head = job.head()["metadata"]["uid"]

    # The next one that is lost, as by a drain, finds no room.
    allow_pods(cluster.client, namespace, 2)
    cluster.client.evict("elastic-1-cpu-0-0", namespace)
    _wait_workers(job, 1)
    assert "evicted, as in draining its node" in job.notes("WorkerReplaced")
    reached = job.wait_checkpoint(1)
    wait_until(lambda: job.newest(1) > reached.name, timeout_s=120)
    wait_until(lambda: len(job.pods("worker")) == 1, timeout_s=120)
    # Fewer workers are no trouble to an elastic job.
    job.wait_condition("Running")

    assert job.head()["metadata"]["uid"] == head, "neither costs an attempt"
    assert job.status().get("failures", 0) == 0
    rows = [json.loads(line) for line in (job.run_folder / "curves/attempt-0001.jsonl").read_text().splitlines()]
    assert _epochs(rows) == list(range(1, len(rows) + 1)), "no epoch is missing or doubled"


def _says(item: Object, stage: str) -> str:
    """What a stage is waiting for."""
    stages = item.get("status", {}).get("stages") or ()
    return next((entry.get("message", "") for entry in stages if entry["name"] == stage), "")


def _wait_workers(job: Job, count: int) -> None:
    """Until so many processes train, after whatever waiting and restarts that takes."""

    def trains(item: Object) -> bool:
        assert condition_status(item, "Failed") != "True", item["status"]
        return (item.get("status", {}).get("progress") or {}).get("workers") == count

    job.wait(trains, timeout_s=75)


def test_a_lost_head_leads_to_an_attempt_that_resumes(run_job: RunJob, cluster: Access, namespace: str) -> None:
    job = run_job("head", **LONG)
    reached = job.wait_checkpoint()

    cluster.client.delete("pods", "head-1-head", namespace, grace_period_s=0)

    done = job.wait_succeeded()
    assert done["status"]["attempt"] == 2
    assert done["status"]["failures"] == 1
    first, second = done["status"]["attempts"]
    assert (first["outcome"], first["reason"]) == ("Failed", "PodDeleted")
    assert second["outcome"] == "Succeeded"
    assert job.base_of(2) >= reached.name, "the second attempt went on where the first had been"
    assert _epochs(job.curve()) == list(range(1, 41))


def test_a_restarted_ray_container_is_a_lost_head(run_job: RunJob, cluster: Access, namespace: str) -> None:
    job = run_job("ray", **LONG)
    reached = job.wait_checkpoint()

    cluster.kubectl("-n", namespace, "exec", "ray-1-head", "-c", "ray", "--", "pkill", "-9", "gcs_server")

    done = job.wait_succeeded()
    assert done["status"]["attempt"] == 2
    assert job.base_of(2) >= reached.name
    assert done["status"]["attempts"][0]["reason"] in ("RayContainerRestarted", "DriverFailed")


def test_a_driver_that_wakes_up_when_the_next_one_trains_damages_nothing(
    run_job: RunJob, cluster: Access, namespace: str
) -> None:
    # Long enough that the node does not end the old head before the new one trains.
    patient = {"podOverrides": {"spec": {"terminationGracePeriodSeconds": 900}}}
    job = run_job("frozen", cluster=patient, **LONG)

    def send(signal: str, process: str) -> None:
        cluster.kubectl("-n", namespace, "exec", "frozen-1-head", "-c", "driver", "--", "pkill", signal, "-f", process)

    reached = job.wait_checkpoint()
    send("-STOP", "scaling-driver")
    send("-KILL", "gcs_server")  # so the attempt is over, and its driver has not heard of it
    job.wait_checkpoint(2)
    frozen = job.client.get("pods", "frozen-1-head", namespace)
    assert frozen["metadata"]["deletionTimestamp"]
    send("-CONT", "scaling-driver")
    job.client.wait_gone("pods", "frozen-1-head", namespace, timeout_s=90)

    done = job.wait_succeeded()
    assert done["status"]["attempt"] == done["status"]["reportedAttempt"] == 2
    assert job.base_of(2) >= reached.name
    assert job.result()["attempt"] == 2
    assert done["status"]["result"]["metrics"]["accuracy"] > 0.9
    assert _epochs(job.curve()) == list(range(1, 41)), "no epoch is missing or doubled"


def test_suspend_saves_and_releases_and_resume_goes_on(run_job: RunJob) -> None:
    job = run_job("pause", **LONG)
    job.wait_checkpoint()

    job.suspend(True)
    suspended = job.wait_condition("Suspended", timeout_s=90)
    assert suspended["status"]["phase"] == "Suspended"
    assert job.owned() == [], "a suspended job holds nothing"
    saved = job.checkpoints(1)[-1]

    job.suspend(False)
    done = job.wait_succeeded()
    assert job.base_of(2) == saved.name
    assert done["status"]["attempt"] == 2
    assert done["status"].get("failures", 0) == 0, "suspension is no failure"
    assert done["status"]["attempts"][0]["outcome"] == "Suspended"
    assert _epochs(job.curve()) == list(range(1, 41))


# Once there is a trained model, the test part gives nothing away until the file "go" is there: evaluate has to wait.
_HELD_UP = """
import time
from pathlib import Path

import numpy as np

STORAGE = Path("/scaling/storage")
IMAGES = np.random.default_rng(0).integers(0, 256, (512, 1, 8, 8), dtype=np.uint8)
LABELS = np.arange(512) % 2


class Test:
    targets = LABELS[:64].tolist()

    def __len__(self):
        return 64

    def __getitem__(self, index):
        trained = any(STORAGE.glob("*/*/ledger/*/train.json"))
        while trained and not (STORAGE / "go").exists():
            time.sleep(0.1)
        return IMAGES[index], int(LABELS[index])


def load():
    return {"train": (IMAGES, LABELS), "validation": (IMAGES[:64], LABELS[:64]), "test": Test(), "classes": ["a", "b"]}
"""


def test_suspended_while_it_evaluates_a_job_trains_nothing_twice(run_job: RunJob, storage_claim: StorageClaim) -> None:
    code = storage_claim.folder / "code"
    code.mkdir()
    (code / "held_up.py").write_text(_HELD_UP)
    job = run_job(
        "evaluates",
        dataset={"factory": "held_up:load"},
        code={"uri": f"{STORAGE_MOUNT}/code"},
        epochs=1,
        workers=1,
        run_policy={"cleanPodPolicy": "None"},
    )
    job.wait(lambda item: item.get("status", {}).get("progress", {}).get("stage") == "evaluate", timeout_s=150)

    job.suspend(True)
    suspended = job.wait_condition("Suspended", timeout_s=90)
    (first,) = suspended["status"]["attempts"]
    assert first["outcome"] == "Suspended"
    assert next(stage["state"] for stage in suspended["status"]["stages"] if stage["name"] == "evaluate") == "Pending"
    assert job.owned() == [], "a suspended job holds nothing, whatever its policy for the end"

    (storage_claim.folder / "go").touch()
    job.suspend(False)
    done = job.wait_succeeded()
    assert (done["status"]["attempt"], done["status"].get("failures", 0)) == (2, 0)
    assert job.checkpoints(2) == [], "what was finished is not done again"


def test_a_deadline_ends_the_driver_though_pods_are_kept_and_the_time_to_live_takes_everything(
    run_job: RunJob, cluster: Access, namespace: str
) -> None:
    job = run_job("late", dataset="digits", epochs=2000, batch_size=32, run_policy={"cleanPodPolicy": "None"})
    job.wait_checkpoint()

    job.patch({"spec": {"runPolicy": {"activeDeadlineSeconds": 1}}})
    failed = job.wait_condition("Failed", timeout_s=60)
    assert next(c["reason"] for c in failed["status"]["conditions"] if c["type"] == "Failed") == "DeadlineExceeded"
    over = ("Succeeded", "Failed")
    wait_until(lambda: all(pod["status"]["phase"] in over for pod in job.pods()), timeout_s=150)
    assert job.pods("head") == [], "it could only be stopped by its deletion"
    assert "secrets/late-1" in job.owned(), "the rest stays"

    folder = job.run_folder
    job.patch({"spec": {"runPolicy": {"ttlSecondsAfterFinished": 1}}})
    cluster.client.wait_gone(JOBS, job.name, namespace, timeout_s=60)
    wait_until(lambda: job.owned() == [], timeout_s=90)
    assert any(folder.glob("checkpoints/*/*/MANIFEST.json")), "storage is never touched"


def test_a_job_that_ends_while_the_operator_is_away_has_its_result(
    run_job: RunJob, operator: Operator, cluster: Access, namespace: str
) -> None:
    job = run_job("alone", **LONG)
    job.wait_checkpoint()
    operator.scale(0)
    try:
        wait_until(lambda: not operator.pods(), timeout_s=60)
        cluster.client.wait_for(
            "pods", "alone-1-head", namespace, lambda pod: pod["status"]["phase"] == "Succeeded", timeout_s=240
        )
        before = job.status()
        assert before["phase"] == "Running"
        assert "result" not in before
    finally:
        operator.scale(1)

    status = job.wait_succeeded()["status"]
    assert status["attempt"] == 1
    result = job.result()
    assert status["result"]["metrics"]["accuracy"] == pytest.approx(result["metrics"]["test"]["accuracy"])
    assert {artifact["name"]: artifact["uri"] for artifact in status["result"]["artifacts"]} == result["artifacts"]
    assert [stage["state"] for stage in status["stages"]] == ["Succeeded"] * 4
    assert (status["progress"]["stage"], status["progress"]["summary"]) == ("report", "done")


def test_no_secret_is_in_a_log(run_job: RunJob, operator: Operator, cluster: Access, namespace: str) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "keys"},
        "stringData": {"key": "s3cr3t-of-a-user"},
    }
    cluster.client.create(secret, namespace)
    env = [{"name": "API_KEY", "secretKeyRef": {"name": "keys", "key": "key"}}]
    with operator.configured(SCALING_OPERATOR_LOG_LEVEL="DEBUG"):
        job = run_job("secretive", cluster={"env": env}, run_policy={"cleanPodPolicy": "None"})
        job.wait_succeeded()
        assert leaks.found(cluster, namespace, OPERATOR_NAMESPACE) == []
        # It would be seen: what the head's log does hold is found in the same way.
        cluster.client.patch("secrets", "keys", {"stringData": {"seen": "stage train begins"}}, namespace)
        assert leaks.found(cluster, namespace) == ["the log of secretive-1-head/driver holds keys/seen"]
        cluster.client.delete("secrets", "keys", namespace)


def test_an_upgrade_of_the_operator_edits_and_deletion_of_a_running_job(
    run_job: RunJob, operator: Operator, cluster: Access, namespace: str
) -> None:
    job = run_job("steady", dataset="digits", epochs=2000, batch_size=32)
    job.wait_checkpoint()
    before = job.pod_uids()

    image = job.head()["spec"]["containers"][0]["image"]
    saved = len(job.checkpoints())
    with operator.configured(SCALING_OPERATOR_RUNTIME_IMAGE="scaling-runtime:next"):
        _look_after_a_running_job(job, before, saved, image)

    # Deletion leaves nothing but the run folder.
    folder = job.run_folder
    cluster.client.delete(JOBS, job.name, namespace)
    cluster.client.wait_gone(JOBS, job.name, namespace, timeout_s=30)
    wait_until(lambda: job.owned() == [], timeout_s=90)
    assert any(folder.glob("checkpoints/*/*/MANIFEST.json"))


def _look_after_a_running_job(job: Job, before: dict[str, str], saved: int, image: str) -> None:
    """An operator that came after the job began: the job does not notice."""
    reported = job.status()["progress"]["updatedAt"]
    job.wait(lambda item: item["status"]["progress"]["updatedAt"] > reported, timeout_s=60)
    assert job.pod_uids() == before
    assert len(job.checkpoints()) >= min(saved, 2)
    assert job.status()["attempt"] == 1

    # An edit of what is frozen is refused with a sentence; one of the worker count is followed.
    with pytest.raises(ApiError, match="suspend"):
        job.patch({"spec": {"training": {"epochs": 3}}})
    workers = job.read()["spec"]["cluster"]["workers"]
    job.patch({"spec": {"cluster": {"workers": [workers[0] | {"max": 3}]}}})
    wait_until(lambda: "steady-1-cpu-2-0" in job.pod_uids(), timeout_s=30)
    added = job.client.get("pods", "steady-1-cpu-2-0", job.namespace)
    assert added["spec"]["containers"][0]["image"] == image, "versions are not mixed within an attempt"
    job.patch({"spec": {"cluster": {"workers": [workers[0] | {"max": 2}]}}})
    wait_until(lambda: job.pod_uids() == before, timeout_s=60)


def test_names_that_a_user_may_choose_fit(run_job: RunJob, cluster: Access, namespace: str) -> None:
    longest = "n" * MAX_JOB_NAME
    job = run_job(longest, cluster={"image": "no-such-image:test"})
    wait_until(lambda: names.head_pod(longest, 1) in job.pod_uids(), timeout_s=30)
    failing = job.wait(
        lambda item: any(c["reason"] == "ImagePullFailed" for c in item["status"].get("conditions", [])), timeout_s=60
    )
    ready = next(c for c in failing["status"]["conditions"] if c["type"] == "ClusterReady")
    assert "no-such-image:test" in ready["message"]


@pytest.mark.parametrize(
    ("training", "workers_evaluate"),
    [
        pytest.param(
            {
                "parallelism": {"data": 1, "fsdp": 2, "batchNorm": "sync"},
                "optimizer": {"name": "lamb", "learningRate": 0.01},
                "clipNorm": 1.0,
                "ema": {"decay": 0.9},
            },
            True,
            id="sharded",
        ),
        pytest.param({"update": {"mode": "async", "maxStaleness": 4}}, False, id="async"),
    ],
)
def test_other_ways_to_train_over_two_pods(
    run_job: RunJob,
    cluster: Access,
    namespace: str,
    training: dict[str, object],
    workers_evaluate: bool,
    request: pytest.FixtureRequest,
) -> None:
    name = request.node.callspec.id
    keep = {"cleanPodPolicy": "None"}
    job = run_job(name, dataset="digits", epochs=6, batch_size=32, training=training, run_policy=keep)
    done = job.wait_succeeded()
    said = cluster.kubectl("-n", namespace, "logs", f"{name}-1-head", "-c", "driver")
    assert ("starting the processes that evaluate" in said) == workers_evaluate
    assert done["status"]["result"]["metrics"]["accuracy"] > 0.8
    assert done["status"].get("failures", 0) == 0
    assert _epochs(job.curve()) == [1, 2, 3, 4, 5, 6]
