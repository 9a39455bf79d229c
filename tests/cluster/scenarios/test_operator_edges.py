"""What a real API server says to the operator's edges: tokens, rights, and pods with every option.

Training is simulated here: pods on simulated nodes exist, and their tokens are real.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import urllib3

import scaling_api.names as names
from scaling_api.driver import TOKEN_AUDIENCE, progress_path
from scaling_operator.server.certs import CA_SECRET
from tests.cluster.kube.access import Access
from tests.cluster.kube.client import Object, condition_status, wait_until
from tests.cluster.scenarios.conftest import OPERATOR_NAMESPACE, Operator, RunJob
from tests.cluster.scenarios.jobs import Job

OPERATOR_USER = f"system:serviceaccount:{OPERATOR_NAMESPACE}:scaling-operator"
ON_SIMULATED_NODES = {
    "nodeSelector": {"type": "simulated"},
    "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
}
HOST = f"scaling-operator.{OPERATOR_NAMESPACE}.svc"


@pytest.fixture
def job(run_job: RunJob, simulated_nodes: list[str]) -> Job:
    """A job whose simulated cluster is ready."""
    job = run_job("reports", cluster={"podOverrides": {"spec": ON_SIMULATED_NODES}})
    job.wait_condition("ClusterReady", timeout_s=60)
    return job


class Driver:
    """Posts to the operator as a head pod would, over the Service."""

    def __init__(self, access: Access, job: Job) -> None:
        self._client, self._job = access.client, job
        secret = access.client.get("secrets", CA_SECRET, OPERATOR_NAMESPACE)
        service = access.client.get("services", "scaling-operator", OPERATOR_NAMESPACE)
        self._pool = urllib3.HTTPSConnectionPool(
            service["spec"]["clusterIP"],
            service["spec"]["ports"][0]["port"],
            ca_cert_data=base64.b64decode(secret["data"]["ca.crt"]).decode(),
            server_hostname=HOST,
            assert_hostname=HOST,
            timeout=60.0,
            retries=False,
        )

    def token(self, pod: str, audience: str = TOKEN_AUDIENCE) -> str:
        """A token that the kubelet could have projected into `pod`."""
        uid = self._client.get("pods", pod, self._job.namespace)["metadata"]["uid"]
        reference = {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid}
        answer = self._client.request(
            "POST",
            self._client.path("serviceaccounts", self._job.namespace, names.SERVICE_ACCOUNT, "token"),
            body={
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": reference},
            },
        )
        token: str = answer["status"]["token"]
        return token

    def post(self, token: str, **report: Any) -> tuple[int, str]:
        """Status and sentence of the answer."""
        progress = {"stage": "train", "percent": 25.0, "summary": "25%", "updatedAt": "2030-01-01T00:00:00Z"}
        answer = self._pool.request(
            "POST",
            progress_path(self._job.namespace, self._job.name),
            body=json.dumps({"attempt": 1, "progress": progress} | report),
            headers={"Authorization": f"Bearer {token}"},
        )
        return answer.status, json.loads(answer.data)["message"]


@pytest.fixture
def driver(cluster: Access, job: Job) -> Driver:
    if cluster.own is None:
        pytest.skip("Service addresses are reachable in clusters of tests.cluster.kube only")
    return Driver(cluster, job)


def test_a_report_of_the_head_pod_is_in_the_status_when_it_is_answered(driver: Driver, job: Job) -> None:
    token = driver.token("reports-1-head")
    assert driver.post(token) == (200, "stored")
    assert job.status()["progress"]["percent"] == 25.0
    assert job.status()["reportedAttempt"] == 1


def test_a_stage_without_metrics_follows_one_with_metrics(driver: Driver, job: Job) -> None:
    """Applying an empty map over a full one would leave null behind."""
    token = driver.token("reports-1-head")
    moment = {"updatedAt": "2030-01-01T00:00:00Z"}
    assert driver.post(token, progress={"stage": "train", "metrics": {"accuracy": 0.9}, **moment})[0] == 200
    assert driver.post(token, progress={"stage": "evaluate", "metrics": {}, **moment})[0] == 200
    assert "metrics" not in job.status()["progress"]


def test_a_driver_that_says_that_nothing_advances_is_shown_so_until_something_does(driver: Driver, job: Job) -> None:
    token = driver.token("reports-1-head")
    moment = {"updatedAt": "2030-01-01T00:10:00Z"}
    stalled = {"stage": "train", "step": 42, "stalledSince": "2030-01-01T00:00:00Z", **moment}
    assert driver.post(token, progress=stalled)[0] == 200
    job.wait_condition("Stalled", timeout_s=30)
    told = "Nothing has advanced since 2030-01-01T00:00:00Z (stage train, step 42)"
    wait_until(lambda: told in job.notes("NotAdvancing"))
    assert driver.post(token, progress={"stage": "train", "step": 43, **moment})[0] == 200
    job.wait_condition("Stalled", "False", timeout_s=30)


def test_other_tokens_are_refused_and_change_nothing(driver: Driver, job: Job, cluster: Access) -> None:
    before = job.status()
    worker = "reports-1-cpu-0-0"
    worker_token = driver.token(worker)
    assert driver.post(driver.token("reports-1-head", "https://kubernetes.default.svc"))[0] == 401
    assert driver.post("forged")[0] == 401
    assert driver.post(worker_token)[0] == 403
    assert driver.post(driver.token("reports-1-head"), attempt=2)[0] == 403
    assert job.status().get("progress") == before.get("progress")


def test_the_token_of_a_deleted_pod_is_worth_nothing(driver: Driver, job: Job, cluster: Access) -> None:
    worker = "reports-1-cpu-0-0"
    token = driver.token(worker)
    cluster.client.delete("pods", worker, job.namespace, grace_period_s=0)
    cluster.client.wait_gone("pods", worker, job.namespace)
    # Its tokens go with it after some seconds, in which the API server remembers it, and the operator the answer.
    wait_until(lambda: driver.post(token)[0] == 401, timeout_s=90)


def test_pods_with_every_option_pass_pod_security_restricted(
    run_job: RunJob, cluster: Access, namespace: str, simulated_nodes: list[str]
) -> None:
    secret: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "keys"},
        "stringData": {"api-key": "x"},
    }
    cluster.client.create(secret, namespace)
    cluster.client.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "trainer"}}, namespace)
    options = {
        "imagePullSecrets": ["pull"],
        "serviceAccountName": "trainer",
        "env": [{"name": "KEY", "secretKeyRef": {"name": "keys", "key": "api-key"}}, {"name": "A", "value": "b"}],
        "volumes": [{"name": "keys", "mountPath": "/etc/keys", "secretName": "keys", "readOnly": True}],
        "podOverrides": {
            "metadata": {"labels": {"team": "vision"}},
            "spec": ON_SIMULATED_NODES | {"terminationGracePeriodSeconds": 5},
        },
    }
    job = run_job("options", cluster=options)
    job.wait(lambda item: condition_status(item, "ClusterReady") == "True", timeout_s=60)
    assert len(job.pods()) == 3
    for pod in job.pods():
        assert pod["metadata"]["labels"]["team"] == "vision"
        assert pod["spec"]["serviceAccountName"] == "trainer"
        # Nothing was added by admission either.
        assert not any("kube-api-access" in volume["name"] for volume in pod["spec"]["volumes"])


@pytest.mark.parametrize(
    "right",
    [
        "list secrets",
        "watch secrets",
        "update secrets",
        "create pods/exec",
        "update pods",
        "patch pods",
        "get configmaps",
        "list nodes",
        "create rolebindings.rbac.authorization.k8s.io",
        "impersonate serviceaccounts",
        "create serviceaccounts/token",
        "update scalingjobs.scaling.dev",
        "patch scalingjobs.scaling.dev",
        "update scalingjobs.scaling.dev/finalizers",
    ],
)
def test_the_operator_has_no_right_beyond_its_work(operator: Operator, cluster: Access, right: str) -> None:
    verb, resource = right.split()
    kind, _, subresource = resource.partition("/")
    answer = cluster.kubectl(
        "auth", "can-i", verb, kind, f"--subresource={subresource}", "-A", f"--as={OPERATOR_USER}", check=False
    )
    assert answer.split()[-1] == "no"


@pytest.mark.parametrize(("role", "verbs"), [("view", "get"), ("edit", "create"), ("admin", "delete")])
def test_users_of_a_namespace_get_rights_on_its_jobs(
    operator: Operator, cluster: Access, namespace: str, role: str, verbs: str
) -> None:
    cluster.kubectl("create", "rolebinding", role, f"--clusterrole={role}", "--user=jane", "-n", namespace)

    def may(verb: str) -> bool:
        arguments = ("auth", "can-i", verb, "scalingjobs.scaling.dev", "-n", namespace, "--as=jane")
        return cluster.kubectl(*arguments, check=False).split()[-1] == "yes"

    # The controller manager puts the aggregated roles together in the background.
    wait_until(lambda: may(verbs), timeout_s=30)
    if role == "view":
        assert not may("create")
