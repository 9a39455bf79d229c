from __future__ import annotations

import re
from typing import Any

from scaling_api import driver
from scaling_api.spec import ScalingJob
from scaling_operator.decide.head_loss import SILENT_LIMIT_S
from scaling_operator.resources.head import build_head
from tests.unit.scaling_operator.builders import EVERY_OPTION, job


def head(of: ScalingJob) -> dict[str, Any]:
    return build_head(of, 2, image="runtime:1", progress_url="https://operator/v1/progress")


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in container["env"]}


def test_ray_is_a_native_sidecar_and_the_driver_decides_the_pods_phase() -> None:
    spec = head(job())["spec"]
    (ray,), (main,) = spec["initContainers"], spec["containers"]
    assert (ray["name"], ray["restartPolicy"]) == (driver.CONTAINER_RAY, "Always")
    assert (main["name"], main["command"]) == (driver.CONTAINER_DRIVER, ["scaling-driver"])
    assert spec["restartPolicy"] == "Never"
    # A startup probe would hold the driver back; a liveness probe would restart Ray under it.
    assert not {"startupProbe", "livenessProbe", "readinessProbe"} & {*ray}


def test_a_driver_that_is_frozen_is_known_within_a_minute_and_one_that_keeps_the_lock_is_let_be() -> None:
    (main,) = head(job())["spec"]["containers"]
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert main[name]["httpGet"] == {"path": "/healthz", "port": driver.PORT_METRICS}
    soonest_s, latest_s = _fails_after_s(main["readinessProbe"])
    assert soonest_s + SILENT_LIMIT_S >= 35, "code of the user's may keep the interpreter's lock for 20 s"
    assert latest_s + SILENT_LIMIT_S <= 45
    startup = main["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] > 14 * 86_400, "older drivers have no such port"
    ended_s, _ = _fails_after_s(main["livenessProbe"])
    assert ended_s >= 35
    # How it ended can be told from that alone, whatever the two probes' phases.
    assert ended_s - latest_s >= 10


def _fails_after_s(probe: dict[str, Any]) -> tuple[int, int]:
    """Seconds from the last answer's moment to the verdict: with a probe just then, and with one just before."""
    soonest = (probe["failureThreshold"] - 1) * probe["periodSeconds"] + probe["timeoutSeconds"]
    return soonest, soonest + probe["periodSeconds"]


def test_ray_and_the_driver_share_what_a_driver_finds_its_node_by() -> None:
    spec = head(job())["spec"]
    shared = {"/tmp", "/dev/shm"}
    (ray,), (main,) = spec["initContainers"], spec["containers"]
    mounts = [{m["mountPath"]: m["name"] for m in c["volumeMounts"] if m["mountPath"] in shared} for c in (ray, main)]
    assert spec["shareProcessNamespace"] is True
    assert mounts[0] == mounts[1]
    assert set(mounts[0]) == shared


def test_only_the_driver_sees_its_token_and_configuration_and_never_the_ray_token_or_templates() -> None:
    spec = head(job())["spec"]
    private = {driver.CONFIG_MOUNT, driver.TOKEN_MOUNT}
    (ray,), (main,) = spec["initContainers"], spec["containers"]
    assert not private & {mount["mountPath"] for mount in ray["volumeMounts"]}
    assert private <= {mount["mountPath"] for mount in main["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert [item["key"] for item in volumes["config"]["secret"]["items"]] == ["manifest.json", "ca.crt"]
    token = volumes["token"]["projected"]["sources"][0]["serviceAccountToken"]
    assert token == {"audience": driver.TOKEN_AUDIENCE, "expirationSeconds": 3600, "path": "token"}


def test_the_driver_is_told_where_everything_is() -> None:
    (main,) = head(job())["spec"]["containers"]
    env = environment(main)
    assert env[driver.ENV_SPEC] == "/scaling/config/manifest.json"
    assert env[driver.ENV_STORAGE_ROOT] == "/scaling/storage"
    assert env[driver.ENV_RUN_DIR] == "/scaling/storage/team/mnist-6c9f-uid"
    assert env[driver.ENV_ATTEMPT] == "2"
    assert env[driver.ENV_PROGRESS_URL] == "https://operator/v1/progress"
    assert env[driver.ENV_PROGRESS_CA] == "/scaling/config/ca.crt"
    assert env[driver.ENV_PROGRESS_TOKEN] == "/scaling/token/token"
    assert env[driver.ENV_RAY_ADDRESS] == "127.0.0.1:6379"
    assert main["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_an_object_store_is_reached_with_the_secrets_keys_and_without_a_volume() -> None:
    pod = head(job(EVERY_OPTION))
    (main,) = pod["spec"]["containers"]
    assert environment(main)[driver.ENV_RUN_DIR] == "s3://bucket/runs/team/mnist-6c9f-uid"
    assert main["envFrom"] == [{"secretRef": {"name": "s3-keys"}}]
    assert "storage" not in {volume["name"] for volume in pod["spec"]["volumes"]}


def test_a_claim_is_mounted_where_the_contract_says() -> None:
    pod = head(job())
    (main,) = pod["spec"]["containers"]
    assert "envFrom" not in main
    assert {"name": "storage", "mountPath": driver.STORAGE_MOUNT} in main["volumeMounts"]
    assert {"name": "storage", "persistentVolumeClaim": {"claimName": "runs"}} in pod["spec"]["volumes"]


def test_the_head_offers_ray_no_cpu_and_a_store_of_the_size_of_dev_shm() -> None:
    spec = head(job())["spec"]
    command = spec["initContainers"][0]["command"][2]
    assert "--num-cpus=0 --num-gpus=0" in command
    (size,) = re.findall(r"--object-store-memory=(\d+)", command)
    (shm,) = [volume for volume in spec["volumes"] if volume["name"] == "shm"]
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": size}


def test_the_drivers_limits_follow_the_heads() -> None:
    (main,) = head(job(EVERY_OPTION))["spec"]["containers"]
    assert main["resources"]["limits"] == {"cpu": "4", "memory": "8Gi"}
    unlimited = job({"cluster": {"head": {"resources": {"requests": {"cpu": "1"}, "limits": {}}}}})
    (main,) = head(unlimited)["spec"]["containers"]
    assert set(main["resources"]) == {"requests"}


def test_a_users_value_beats_tuning_and_a_users_secret_is_referred_to() -> None:
    (main,) = head(job(EVERY_OPTION))["spec"]["containers"]
    assert environment(main)["OMP_NUM_THREADS"] == "7"
    (key,) = [variable for variable in main["env"] if variable["name"] == "WANDB_KEY"]
    assert key == {"name": "WANDB_KEY", "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "api-key"}}}
