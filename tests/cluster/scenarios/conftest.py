"""The operator as users deploy it, from manifests/ unchanged, and jobs to run under it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import StorageClaim
from tests.cluster.kube.access import Access
from tests.cluster.kube.client import Objects, condition_status, wait_until
from tests.cluster.scenarios import leaks
from tests.cluster.scenarios.jobs import Job, manifest

MANIFESTS = Path(__file__).parents[3] / "manifests"
OPERATOR_NAMESPACE = "scaling-system"
OPERATOR_LABELS = "app.kubernetes.io/name=scaling-operator"

RunJob = Callable[..., Job]


class Operator:
    """The Deployment from manifests/."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def pods(self) -> Objects:
        return self._access.client.list("pods", OPERATOR_NAMESPACE, labels=OPERATOR_LABELS)

    def living(self) -> set[str]:
        """Names of the pods that are not on their way out."""
        return {pod["metadata"]["name"] for pod in self.pods() if not pod["metadata"].get("deletionTimestamp")}

    def scale(self, replicas: int) -> None:
        """Change the number of replicas and wait until they are available."""
        change = {"spec": {"replicas": replicas}}
        self._access.client.patch("deployments.apps", "scaling-operator", change, OPERATOR_NAMESPACE)
        self.wait_available(replicas)

    @contextmanager
    def configured(self, **environment: str) -> Iterator[None]:
        """Roll out another version of it, which differs by some variables; in the end the old one again."""
        deployment = self._access.client.get("deployments.apps", "scaling-operator", OPERATOR_NAMESPACE)
        before = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
        other = [variable for variable in before if variable["name"] not in environment]
        self._roll_out(other + [{"name": name, "value": value} for name, value in environment.items()])
        try:
            yield
        finally:
            self._roll_out(before)

    def _roll_out(self, environment: Objects) -> None:
        old = self.living()
        change = [{"op": "replace", "path": "/spec/template/spec/containers/0/env", "value": environment}]
        self._access.client.patch("deployments.apps", "scaling-operator", change, OPERATOR_NAMESPACE)
        self.wait_available(len(old))
        wait_until(lambda: self.wait_leader() not in old, timeout_s=60)

    def wait_available(self, replicas: int) -> None:
        self._access.client.wait_for(
            "deployments.apps",
            "scaling-operator",
            OPERATOR_NAMESPACE,
            lambda item: (
                item["status"].get("observedGeneration") == item["metadata"]["generation"]
                and item["status"].get("availableReplicas", 0) == replicas
                and item["status"].get("updatedReplicas", 0) == replicas
                and item["status"].get("replicas", 0) == replicas
            ),
            timeout_s=150,
        )

    def wait_leader(self) -> str:
        """The name of the pod that holds the lease, once that is one that lives."""

        def leads() -> str | None:
            lease = self._access.client.find("leases.coordination.k8s.io", "scaling-operator", OPERATOR_NAMESPACE)
            holder: str = (lease or {}).get("spec", {}).get("holderIdentity") or ""
            return next((name for name in self.living() if name == holder.split("_")[0]), None)

        return wait_until(leads)

    def delete_pod(self, name: str, *, grace_period_s: int | None = None) -> None:
        self._access.client.delete("pods", name, OPERATOR_NAMESPACE, grace_period_s=grace_period_s)


@pytest.fixture(scope="package")
def operator(cluster: Access) -> Iterator[Operator]:
    """Gone with all that it installed when the scenarios end: other tests want jobs that nobody else writes to."""
    cluster.kubectl("apply", "-k", str(MANIFESTS))
    cluster.client.wait_for(
        "customresourcedefinitions.apiextensions.k8s.io",
        "scalingjobs.scaling.dev",
        None,
        lambda item: condition_status(item, "Established") == "True",
    )
    deployed = Operator(cluster)
    replicas = cluster.client.get("deployments.apps", "scaling-operator", OPERATOR_NAMESPACE)["spec"]["replicas"]
    deployed.wait_available(replicas)
    yield deployed
    cluster.kubectl("delete", "-k", str(MANIFESTS), "--ignore-not-found")


@contextmanager
def running(cluster: Access, namespace: str, claim: StorageClaim) -> Iterator[RunJob]:
    """Applies jobs made by `jobs.manifest`; all are deleted, with their pods, when the block ends.

    No secret may stand in a log that is there then.
    """
    applied: list[Job] = []

    def run(name: str, **options: Any) -> Job:
        cluster.client.apply(manifest(name, claim.name, **options), namespace)
        job = Job(cluster.client, namespace, name, claim.folder)
        applied.append(job)
        return job

    yield run
    in_logs = leaks.found(cluster, namespace, OPERATOR_NAMESPACE)
    for job in applied:
        cluster.client.delete("scalingjobs.scaling.dev", job.name, namespace)
    cluster.client.delete_all("pods", namespace, grace_period_s=0)
    # Training pods are heavy: without waiting, the next test would start beside this one's last.
    wait_until(lambda: not cluster.client.list("pods", namespace), timeout_s=60)
    assert in_logs == []


@pytest.fixture
def run_job(operator: Operator, cluster: Access, namespace: str, storage_claim: StorageClaim) -> Iterator[RunJob]:
    """Jobs of one test."""
    with running(cluster, namespace, storage_claim) as run:
        yield run
