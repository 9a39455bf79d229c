"""From `kubectl apply` to a trained model, in the ways that need a job of their own; test_disturbed.py has the others.

Real Ray pods train on the test cluster's real node. Each start costs tens of seconds of CPU on a small machine,
so a job carries as many observations as fit it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import scaling_api.names as names
from scaling_api.driver import STORAGE_MOUNT
from scaling_api.scalars import MAX_JOB_NAME
from tests.cluster.conftest import StorageClaim
from tests.cluster.kube.access import Access
from tests.cluster.kube.client import Object, condition_status, wait_until
from tests.cluster.scenarios.conftest import RunJob
from tests.cluster.scenarios.jobs import JOBS, QUOTA, RESOURCES, Job, allow_pods, paced

EXAMPLES = Path(__file__).parents[3] / "examples"


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


def test_an_elastic_job_follows_an_edit_of_min_grows_and_goes_on_with_fewer_and_is_deleted_while_it_runs(
    run_job: RunJob, cluster: Access, namespace: str, storage_claim: StorageClaim
) -> None:
    # A quota with room for the head and one worker: the spec's two are waited for, until an edit says that one will do.
    allow_pods(cluster.client, namespace, 2)
    group = {"name": "cpu", "min": 2, "max": 2, "resources": RESOURCES}
    # Far longer than the test takes on any machine: the job is deleted in the end.
    endless = paced(storage_claim.folder, epochs=5000)
    job = run_job("elastic", **endless, training={"parallelism": {}}, cluster={"workers": [group]})
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
    job.wait_progress(1)
    wait_until(lambda: len(job.pods("worker")) == 1, timeout_s=120)
    # Fewer workers are no trouble to an elastic job.
    job.wait_condition("Running")

    assert job.head()["metadata"]["uid"] == head, "neither costs an attempt"
    assert job.status().get("failures", 0) == 0
    rows = [json.loads(line) for line in (job.run_folder / "curves/attempt-0001.jsonl").read_text().splitlines()]
    assert _epochs(rows) == list(range(1, len(rows) + 1)), "no epoch is missing or doubled"

    # Deletion leaves nothing but the run folder.
    folder = job.run_folder
    cluster.client.delete(JOBS, job.name, namespace)
    cluster.client.wait_gone(JOBS, job.name, namespace, timeout_s=30)
    wait_until(lambda: job.owned() == [], timeout_s=90)
    assert any(folder.glob("checkpoints/*/*/MANIFEST.json"))


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


def test_a_deadline_saves_though_pods_are_kept_and_the_time_to_live_takes_everything(
    run_job: RunJob, cluster: Access, namespace: str, storage_claim: StorageClaim
) -> None:
    never = {"checkpoint": {"everyEpochs": 10_000}}
    job = run_job(
        "late", **paced(storage_claim.folder, epochs=5000, training=never), run_policy={"cleanPodPolicy": "None"}
    )
    job.wait(lambda item: item.get("status", {}).get("progress", {}).get("step"), timeout_s=150)
    assert job.checkpoints() == []

    job.patch({"spec": {"runPolicy": {"activeDeadlineSeconds": 1}}})
    failed = job.wait_condition("Failed", timeout_s=90)
    assert len(job.checkpoints(1)) == 1, "the driver had its time to save, and its workers for that"
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
    ("name", "example", "training", "workers_evaluate", "least"),
    [
        pytest.param(
            "multilabel",
            {"dataset": {"factory": "properties:data"}},
            {
                "parallelism": {"data": 1, "fsdp": 2, "batchNorm": "sync"},
                "optimizer": {"name": "lamb", "learningRate": 0.01},
                "clipNorm": 1.0,
                "ema": {"decay": 0.9},
            },
            True,
            {"f1": 0.7},
            id="labels, sharded",
        ),
        pytest.param(
            "regression",
            {"dataset": {"factory": "diabetes:data"}, "model": {"factory": "diabetes:model"}},
            {
                "optimizer": {"name": "adam", "learningRate": 0.003},
                "update": {"mode": "async", "maxStaleness": 4},
            },
            False,
            {"r2": 0.1},
            id="numbers, async",
        ),
    ],
)
def test_other_things_to_learn_in_other_ways_over_two_pods(
    run_job: RunJob,
    cluster: Access,
    namespace: str,
    storage_claim: StorageClaim,
    name: str,
    example: dict[str, Any],
    training: dict[str, Any],
    workers_evaluate: bool,
    least: dict[str, float],
) -> None:
    """The examples of tasks without classes: what is shown of them goes by the name of their own objective."""
    code = storage_claim.folder / "examples"
    shutil.copytree(EXAMPLES / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = {**example, "code": {"uri": f"{STORAGE_MOUNT}/examples/{name}"}, "run_policy": {"cleanPodPolicy": "None"}}
    job = run_job(name, epochs=6, batch_size=32, training=training, **options)
    done = job.wait_succeeded()["status"]

    said = cluster.kubectl("-n", namespace, "logs", f"{name}-1-head", "-c", "driver")
    assert ("starting the processes that evaluate" in said) == workers_evaluate
    assert done.get("failures", 0) == 0
    assert _epochs(job.curve()) == [1, 2, 3, 4, 5, 6]
    metrics, objective = done["result"]["metrics"], done["objective"]
    assert all(metrics[metric] > value for metric, value in least.items()), metrics
    assert (objective["metric"], objective["split"]) == ("f1" if name == "multilabel" else "mse", "test")
    assert objective["value"] == pytest.approx(metrics[objective["metric"]], abs=1e-5)
    assert "accuracy" not in done
    assert objective["summary"] in cluster.kubectl("-n", namespace, "get", "sj", name), "the column SCORE"
