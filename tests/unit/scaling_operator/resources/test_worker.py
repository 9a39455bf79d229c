from __future__ import annotations

from typing import Any

import pytest

from scaling_api.spec import ScalingJob
from scaling_operator.decide.failure import SILENT_FOR_S
from scaling_operator.resources.waiting import wait_for_head
from scaling_operator.resources.worker import PORT_RAYLET, build_worker_template
from tests.unit.scaling_operator.builders import EVERY_OPTION, job


def template(of: ScalingJob, group: int = 0) -> dict[str, Any]:
    return build_worker_template(of, 2, of.spec.cluster.workers[group], image="runtime:1")


def command(pod: dict[str, Any]) -> str:
    text: str = pod["spec"]["containers"][0]["command"][2]
    return text


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in pod["spec"]["containers"][0]["env"]}


def test_a_worker_joins_the_attempts_head_by_its_service() -> None:
    pod = template(job())
    assert wait_for_head("mnist-2", "team", 6379) in command(pod)
    assert 'exec ray start --address="$head:6379" --block' in command(pod)
    assert environment(pod)["RAY_ADDRESS"] == "mnist-2.team.svc:6379"
    assert pod["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        pytest.param(0, ["--num-cpus=8", "--num-gpus=2", "--resources='{\"slot\":2}'"], id="gpus and two slots"),
        pytest.param(1, ["--num-cpus=1", "--num-gpus=0", "--resources='{\"slot\":1}'"], id="half a cpu"),
    ],
)
def test_a_worker_announces_what_its_group_offers(group: int, expected: list[str]) -> None:
    for argument in expected:
        assert argument in command(template(job(EVERY_OPTION), group))


def test_there_are_cpus_for_every_slot_even_where_the_request_is_smaller() -> None:
    workers = {"name": "w", "min": 1, "max": 1, "slots": 4, "resources": {"requests": {"cpu": "1"}}}
    assert "--num-cpus=4" in command(template(job({"cluster": {"workers": [workers]}})))


def test_health_is_what_the_raylet_says_of_itself() -> None:
    pod = template(job())
    (container,) = pod["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"] == {"port": PORT_RAYLET}
    assert f"--node-manager-port={PORT_RAYLET}" in command(pod)


def test_a_worker_may_wait_for_its_head_for_weeks_but_not_be_frozen_for_long() -> None:
    (container,) = template(job())["spec"]["containers"]
    waits, lives = container["startupProbe"], container["livenessProbe"]
    assert waits["failureThreshold"] * waits["periodSeconds"] > 14 * 86_400
    assert lives["failureThreshold"] * lives["periodSeconds"] <= 15
    # How it ended can be told from since when it was not ready, whatever the two probes' phases.
    ready = container["readinessProbe"]
    unready_by_s = ready["failureThreshold"] * ready["periodSeconds"] + ready["timeoutSeconds"]
    ended_s = (lives["failureThreshold"] - 1) * lives["periodSeconds"] + lives["timeoutSeconds"]
    assert ended_s - unready_by_s >= SILENT_FOR_S


def test_users_volumes_keep_their_paths_and_never_meet_the_operators_names() -> None:
    pod = template(job(EVERY_OPTION))
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert volumes["user-data"]["persistentVolumeClaim"] == {"claimName": "images", "readOnly": True}
    assert volumes["user-tmp"]["secret"] == {"secretName": "keys"}
    assert volumes["user-conf"]["configMap"] == {"name": "conf"}
    assert "emptyDir" in volumes["tmp"]
    mounts = {mount["name"]: mount for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounts["user-data"] == {"name": "user-data", "mountPath": "/data", "readOnly": True}


@pytest.mark.parametrize(
    ("resources", "slots", "threads"),
    [
        pytest.param({"limits": {"cpu": "8"}}, 2, "4", id="limit shared by two"),
        pytest.param({"requests": {"cpu": "100m"}}, 1, "1", id="less than one cpu"),
        pytest.param({"limits": {"memory": "1Gi"}}, 1, "1", id="no cpu figure"),
    ],
)
def test_compute_threads_are_the_share_of_each_process(resources: Any, slots: int, threads: str) -> None:
    workers = {"name": "w", "min": 1, "max": 1, "slots": slots, "resources": resources}
    assert environment(template(job({"cluster": {"workers": [workers]}})))["OMP_NUM_THREADS"] == threads
