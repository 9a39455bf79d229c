from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest

from scaling_api import names
from scaling_api.names import WorkerSlot
from scaling_api.spec import MAX_JOB_NAME, MAX_WORKERS_PER_GROUP, ScalingJob
from scaling_operator.resources.attempt import AttemptObjects, render_attempt, worker_pod
from scaling_operator.resources.secret import stored_templates
from scaling_operator.settings import Settings
from tests.unit.scaling_operator.builders import EVERY_OPTION, job
from tests.unit.scaling_operator.resources.pod_security import restricted_violations

JOBS = [pytest.param(job(), id="minimal"), pytest.param(job(EVERY_OPTION), id="every option")]


def render(of: ScalingJob, attempt: int = 2) -> AttemptObjects:
    return render_attempt(of, attempt=attempt, settings=Settings(), ray_token="secret", ca_bundle="CA")


def workers(objects: AttemptObjects, attempt: int = 2) -> list[dict[str, Any]]:
    return [
        worker_pod(template, job="mnist", attempt=attempt, slot=WorkerSlot(group, 3), incarnation=1)
        for group, template in objects.worker_templates.items()
    ]


def pods(objects: AttemptObjects) -> list[dict[str, Any]]:
    return [objects.head, *workers(objects)]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
    return found


@pytest.mark.parametrize("of", JOBS)
def test_pods_satisfy_pod_security_restricted(of: ScalingJob) -> None:
    for pod in pods(render(of)):
        assert restricted_violations(pod) == []


def test_the_checker_sees_each_thing_that_is_taken_away() -> None:
    for field in ("allowPrivilegeEscalation", "capabilities"):
        pod = copy.deepcopy(render(job()).head)
        del pod["spec"]["containers"][0]["securityContext"][field]
        assert restricted_violations(pod)
    for field in ("runAsNonRoot", "seccompProfile"):
        pod = copy.deepcopy(render(job()).head)
        del pod["spec"]["securityContext"][field]
        assert restricted_violations(pod)


@pytest.mark.parametrize("of", JOBS)
def test_no_pod_gets_a_service_account_token_or_a_writable_root(of: ScalingJob) -> None:
    for pod in pods(render(of)):
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert all(container["securityContext"]["readOnlyRootFilesystem"] for container in containers(pod))


@pytest.mark.parametrize("of", JOBS)
def test_every_object_belongs_to_the_job_and_holds_no_finalizer_up(of: ScalingJob) -> None:
    objects = render(of)
    for item in (objects.secret, objects.service, objects.network_policy, *pods(objects)):
        (owner,) = item["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("ScalingJob", "mnist", "6c9f-uid")
        assert owner["controller"] is True
        assert owner["blockOwnerDeletion"] is False
        assert item["metadata"]["namespace"] == "team"
        assert item["metadata"]["labels"][names.LABEL_MANAGED_BY] == names.MANAGED_BY
        assert item["metadata"]["labels"][names.LABEL_ATTEMPT] == "2"


@pytest.mark.parametrize("of", JOBS)
def test_volumes_and_mounts_match_and_mount_paths_are_unique(of: ScalingJob) -> None:
    for pod in pods(render(of)):
        volumes = [volume["name"] for volume in pod["spec"]["volumes"]]
        assert len(volumes) == len(set(volumes))
        mounted = set()
        for container in containers(pod):
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert len(paths) == len(set(paths))
            mounted |= {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == set(volumes)


@pytest.mark.parametrize("of", JOBS)
def test_environment_names_are_unique_and_the_ray_token_comes_from_the_secret(of: ScalingJob) -> None:
    for pod in pods(render(of)):
        for container in containers(pod):
            variables = {variable["name"]: variable for variable in container["env"]}
            assert len(variables) == len(container["env"])
            assert variables["RAY_AUTH_MODE"]["value"] == "token"
            reference = variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
            assert reference == {"name": "mnist-2", "key": "ray-token"}


def test_names_and_labels_fit_63_characters_for_the_longest_job() -> None:
    longest = job({"cluster": {"workers": [{"name": "g" * 10, "min": 1, "max": 1}]}}, name="j" * MAX_JOB_NAME)
    objects = render(longest, attempt=999)
    slot = WorkerSlot("g" * 10, MAX_WORKERS_PER_GROUP - 1)
    worker = worker_pod(
        objects.worker_templates["g" * 10], job="j" * MAX_JOB_NAME, attempt=999, slot=slot, incarnation=999
    )
    for item in (objects.secret, objects.service, objects.network_policy, objects.head, worker):
        assert len(item["metadata"]["name"]) <= 63
        assert all(len(value) <= 63 for value in item["metadata"]["labels"].values())


def test_the_secret_holds_everything_that_the_attempt_needs_later() -> None:
    objects = render(job(EVERY_OPTION))
    values = {key: base64.b64decode(value).decode() for key, value in objects.secret["data"].items()}
    assert objects.secret["immutable"] is True
    assert values["ray-token"] == "secret"
    assert values["ca.crt"] == "CA"
    assert ScalingJob.model_validate_json(values["manifest.json"]).spec == job(EVERY_OPTION).spec
    assert stored_templates(objects.secret) == (objects.head, objects.worker_templates)


def test_no_secret_but_the_secret_holds_the_ray_token() -> None:
    objects = render(job())
    others = (objects.service, objects.network_policy, *pods(objects))
    assert "secret" not in [
        variable.get("value") for pod in pods(objects) for c in containers(pod) for variable in c["env"]
    ]
    assert all(base64.b64encode(b"secret").decode() not in json.dumps(item) for item in others)


def test_rendering_twice_gives_the_same_and_changes_no_template() -> None:
    of = job(EVERY_OPTION)
    first = render(of)
    before = copy.deepcopy(first)
    workers(first)
    assert first == before == render(of)


def test_a_replacement_differs_from_its_predecessor_in_name_and_incarnation_alone() -> None:
    template = render(job()).worker_templates["workers"]
    slot = WorkerSlot("workers", 0)
    old, new = (worker_pod(template, job="mnist", attempt=2, slot=slot, incarnation=n) for n in (0, 1))
    assert old["metadata"]["name"] == "mnist-2-workers-0-0"
    assert new["metadata"]["name"] == "mnist-2-workers-0-1"
    assert new["metadata"]["labels"].pop(names.LABEL_INCARNATION) == "1"
    assert old["metadata"]["labels"].pop(names.LABEL_INCARNATION) == "0"
    assert old["spec"] == new["spec"]
    assert {**old["metadata"], "name": ""} == {**new["metadata"], "name": ""}


def test_the_policy_and_the_service_select_the_attempts_pods_and_no_others() -> None:
    objects, other = render(job(), attempt=2), render(job(), attempt=3)

    def selected(selector: dict[str, str], pod: dict[str, Any]) -> bool:
        labels: dict[str, str] = pod["metadata"]["labels"]
        return selector.items() <= labels.items()

    policy = objects.network_policy["spec"]["podSelector"]["matchLabels"]
    assert all(selected(policy, pod) for pod in pods(objects))
    assert not any(selected(policy, pod) for pod in [other.head, *workers(other, attempt=3)])
    peers, metrics = objects.network_policy["spec"]["ingress"]
    assert peers == {"from": [{"podSelector": {"matchLabels": policy}}]}
    assert [port["port"] for port in metrics["ports"]] == [8080]
    service = objects.service["spec"]["selector"]
    assert [selected(service, pod) for pod in pods(objects)] == [True, False]
    assert objects.service["spec"]["clusterIP"] == "None"
    assert objects.service["spec"]["publishNotReadyAddresses"] is True


def test_overrides_reach_head_and_workers_and_leave_the_operators_labels() -> None:
    for pod in pods(render(job(EVERY_OPTION))):
        assert pod["metadata"]["labels"]["team"] == "vision"
        assert pod["metadata"]["labels"][names.LABEL_JOB] == "mnist"
        assert pod["spec"]["nodeSelector"] == {"pool": "a"}
        assert pod["spec"]["terminationGracePeriodSeconds"] == 300


def test_image_pull_secrets_and_service_account_are_the_users() -> None:
    for pod in pods(render(job(EVERY_OPTION))):
        assert pod["spec"]["imagePullSecrets"] == [{"name": "pull-a"}, {"name": "pull-b"}]
        assert pod["spec"]["serviceAccountName"] == "trainer"
        for container in containers(pod):
            assert container["image"] == "registry.example.com/team/runtime:7"
            assert container["imagePullPolicy"] == "Always"
    for pod in pods(render(job())):
        assert "imagePullSecrets" not in pod["spec"]
        assert pod["spec"]["serviceAccountName"] == names.SERVICE_ACCOUNT
        assert all(container["image"] == Settings().runtime_image for container in containers(pod))
