"""ScalingJobs as the scenarios handle them: apply one, look at it from outside, disturb it, wait."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scaling_api.names as names
from scaling_api import API_VERSION, GROUP, KIND, PLURAL
from scaling_api.driver import STORAGE_MOUNT
from tests.cluster.kube.client import Client, Object, Objects, condition_status, wait_until

JOBS = f"{PLURAL}.{GROUP}"
QUOTA = "few"

# Small requests: the test node has the machine's real and few CPUs.
RESOURCES = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "3Gi"}}


def manifest(
    name: str,
    claim: str,
    *,
    model: dict[str, Any] | None = None,
    dataset: str | dict[str, Any] = "digits",
    epochs: int = 3,
    batch_size: int = 64,
    workers: int = 2,
    training: dict[str, Any] | None = None,
    cluster: dict[str, Any] | None = None,
    run_policy: dict[str, Any] | None = None,
    code: dict[str, Any] | None = None,
) -> Object:
    """A job of two one-process workers, as small as a real one can be; a dataset's name or its section."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {
            "storage": {"claimName": claim},
            "model": model or {"name": "small-cnn"},
            "dataset": {"name": dataset} if isinstance(dataset, str) else dataset,
            **({"code": code} if code else {}),
            "training": {
                "epochs": epochs,
                "batchSize": batch_size,
                "parallelism": {"data": workers},
                **(training or {}),
            },
            "cluster": {
                "head": {"resources": RESOURCES},
                "workers": [{"name": "cpu", "min": workers, "max": workers, "resources": RESOURCES}],
                **(cluster or {}),
            },
            "runPolicy": run_policy or {},
        },
    }


def paced(storage: Path, *, epochs: int = 60, **options: Any) -> dict[str, Any]:
    """Options of a job that trains for as long as a test wants it to, by the code of paced.py, put into its storage.

    `hurry` in that folder lets it train to its end, `go` lets it evaluate.
    """
    code = storage / "code"
    if not code.exists():
        code.mkdir()
        shutil.copy(Path(__file__).with_name("paced.py"), code)
    return {
        "model": {"factory": "paced:model"},
        "dataset": {"factory": "paced:data"},
        "code": {"uri": f"{STORAGE_MOUNT}/code"},
        "epochs": epochs,
        "batch_size": 128,
        **options,
    }


@dataclass(frozen=True)
class Job:
    """One applied job; `storage` is the folder behind its claim."""

    client: Client
    namespace: str
    name: str
    storage: Path

    def read(self) -> Object:
        return self.client.get(JOBS, self.name, self.namespace)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.read().get("status", {})
        return status

    def patch(self, change: Object) -> Object:
        return self.client.patch(JOBS, self.name, change, self.namespace)

    def suspend(self, value: bool) -> None:
        self.patch({"spec": {"runPolicy": {"suspend": value}}})

    def wait(self, condition: Callable[[Object], object], *, timeout_s: float = 120.0) -> Object:
        return self.client.wait_for(JOBS, self.name, self.namespace, condition, timeout_s=timeout_s)

    def wait_condition(self, kind: str, status: str = "True", *, timeout_s: float = 120.0) -> Object:
        return self.wait(lambda job: condition_status(job, kind) == status, timeout_s=timeout_s)

    def wait_succeeded(self, *, timeout_s: float = 240.0) -> Object:
        """The job once it has Succeeded; fails at once when it Failed instead."""

        def ended(job: Object) -> bool:
            assert condition_status(job, "Failed") != "True", json.dumps(job["status"], indent=1)
            return condition_status(job, "Succeeded") == "True"

        return self.wait(ended, timeout_s=timeout_s)

    def pods(self, role: str | None = None) -> Objects:
        labels = f"{names.LABEL_JOB}={self.name}" + (f",{names.LABEL_ROLE}={role}" if role else "")
        return self.client.list("pods", self.namespace, labels=labels)

    def pod_uids(self) -> dict[str, str]:
        return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in self.pods()}

    def head(self) -> Object:
        """The current attempt's head pod."""
        return self.client.get("pods", names.head_pod(self.name, self.status()["attempt"]), self.namespace)

    @property
    def run_folder(self) -> Path:
        metadata = self.read()["metadata"]
        return self.storage / names.run_folder(self.namespace, self.name, metadata["uid"])

    def checkpoints(self, attempt: int | None = None) -> list[Path]:
        """Committed checkpoints, oldest first."""
        pattern = f"checkpoints/attempt-{attempt:04d}/*/MANIFEST.json" if attempt else "checkpoints/*/*/MANIFEST.json"
        return sorted(path.parent for path in self.run_folder.glob(pattern))

    def wait_checkpoint(self, attempt: int | None = None, *, timeout_s: float = 150.0) -> Path:
        """The newest committed checkpoint, once there is one: training is under way."""

        def found() -> Path | None:
            status = self.status()
            ended = next(
                (c for c in status.get("conditions", []) if c["type"] == "Failed" and c["status"] == "True"), None
            )
            assert ended is None, f"failed before its first checkpoint: {ended}"
            committed = self.checkpoints(attempt)
            return committed[-1] if committed else None

        return wait_until(found, timeout_s=timeout_s)

    def newest(self, attempt: int) -> str:
        """The last one's name; empty when the look fell between a commit and the deletion of those before it."""
        return max((path.name for path in self.checkpoints(attempt)), default="")

    def wait_progress(self, attempt: int, *, timeout_s: float = 120.0) -> None:
        """Until an attempt that has a checkpoint has a later one: it trains on."""
        reached = self.wait_checkpoint(attempt).name
        wait_until(lambda: self.newest(attempt) > reached, timeout_s=timeout_s)

    def base_of(self, attempt: int) -> str:
        """The name of the checkpoint's folder that an attempt started from."""
        recorded = json.loads((self.run_folder / f"checkpoints/attempt-{attempt:04d}/BASE.json").read_text())
        return Path(recorded["base"]["folder"]).name

    def curve(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((self.run_folder / "curves.json").read_text())
        return rows

    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((self.run_folder / "result.json").read_text())
        return result

    def events(self) -> list[str]:
        """Reasons of the job's events."""
        return [event["reason"] for event in self._events()]

    def notes(self, reason: str) -> str:
        """What its events of that reason say."""
        return "\n".join(event["note"] for event in self._events() if event["reason"] == reason)

    def _events(self) -> Objects:
        uid = self.read()["metadata"]["uid"]
        events = self.client.list("events.events.k8s.io", self.namespace)
        return [event for event in events if event.get("regarding", {}).get("uid") == uid]

    def owned(self) -> list[str]:
        """Everything in the namespace that belongs to the job, as kind/name."""
        selector = f"{names.LABEL_JOB}={self.name}"
        kinds = ("pods", "services", "secrets", "networkpolicies.networking.k8s.io")
        return [
            f"{kind}/{item['metadata']['name']}"
            for kind in kinds
            for item in self.client.list(kind, self.namespace, labels=selector)
        ]


def allow_pods(client: Client, namespace: str, count: int) -> None:
    """Make a quota of so many pods; returns when it is in force."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": QUOTA}}
    client.create({**quota, "spec": {"hard": {"pods": str(count)}}}, namespace)
    wait_until(lambda: client.get("resourcequotas", QUOTA, namespace)["status"].get("hard"))
