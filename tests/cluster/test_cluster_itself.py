"""The test cluster itself: what every other test in this folder takes for granted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.conftest import StorageClaim
from tests.cluster.kube.access import Access
from tests.cluster.kube.client import ApiError, Client, condition_status
from tests.cluster.kube.controlplane import NODE_NAME
from tests.cluster.kube.pods import container, headless_service, on_simulated_nodes, pod

Object = dict[str, Any]
Kubectl = Callable[..., str]


@pytest.fixture(autouse=True)
def _images(cluster: Access) -> None:
    if not cluster.has_images:
        pytest.skip("this cluster has no scaling-runtime:0.1.0 image")


def phase_is(*phases: str) -> Callable[[Object], bool]:
    return lambda item: item["status"].get("phase") in phases


def ended(client: Client, name: str, namespace: str, *, timeout_s: float = 60) -> Object:
    return client.wait_for("pods", name, namespace, phase_is("Succeeded", "Failed"), timeout_s=timeout_s)


def test_the_real_node_is_ready(cluster: Access, client: Client) -> None:
    if cluster.own is None:
        pytest.skip("the name of the node is that of our own clusters")
    assert condition_status(client.get("nodes", NODE_NAME), "Ready") == "True"


def test_a_restricted_pod_has_the_python_environment(client: Client, namespace: str) -> None:
    code = (
        "import os, pwd, tempfile, torch, ray, scaling_api\n"
        "tempfile.NamedTemporaryFile()\n"
        "print(os.getuid(), pwd.getpwuid(os.getuid()).pw_name, os.access(torch.__file__, os.W_OK))"
    )
    client.create(pod("python", container("main", "python", "-c", code)), namespace)
    finished = ended(client, "python", namespace)
    assert client.logs("python", namespace) == "1000 scaling False\n"
    assert finished["status"]["phase"] == "Succeeded"


def test_exit_code_and_termination_message_reach_the_status(client: Client, namespace: str) -> None:
    command = ("sh", "-c", "printf why >/dev/termination-log; exit 7")
    client.create(pod("fails", container("main", *command)), namespace)
    state = ended(client, "fails", namespace)["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (state["exitCode"], state["message"]) == (7, "why")


def test_exec_and_logs_work(client: Client, kubectl: Kubectl, namespace: str) -> None:
    client.create(pod("sleeper", container("main", "sh", "-c", "echo started; exec sleep 600")), namespace)
    client.wait_for("pods", "sleeper", namespace, phase_is("Running"))
    assert kubectl("-n", namespace, "exec", "sleeper", "--", "id", "-u") == "1000\n"
    assert kubectl("-n", namespace, "logs", "sleeper") == "started\n"


def test_names_services_and_the_api_server_are_reached_from_a_pod(client: Client, namespace: str) -> None:
    server = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8000)"
    client.create(
        pod("server", container("main", "python", "-c", server), hostname="one", subdomain="servers"), namespace
    )
    client.create(headless_service("servers", "server"), namespace)
    service = headless_service("virtual", "server")
    service["spec"] = {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8000}]}
    client.create(service, namespace)
    looks = f"""
import socket, time, urllib.request
def until(action):
    for attempt in range(600):
        try:
            return action()
        except OSError:
            time.sleep(0.2)
    return action()
headless = until(lambda: socket.gethostbyname("servers.{namespace}.svc.cluster.local"))
named = until(lambda: socket.gethostbyname("one.servers"))
status = until(lambda: urllib.request.urlopen("http://virtual/", timeout=10).status)
api = until(lambda: socket.create_connection(("kubernetes.default", 443), 10)) is not None
try:
    outside = socket.gethostbyname("example.com")
except OSError:
    outside = None
print(headless == named, status, api, outside)
"""
    client.create(pod("looks", container("main", "python", "-c", looks)), namespace)
    finished = ended(client, "looks", namespace)
    assert client.logs("looks", namespace) == "True 200 True None\n", finished


def test_pod_security_refuses_a_privileged_pod(client: Client, namespace: str) -> None:
    manifest = pod("privileged", container("main", "true", securityContext={"privileged": True}))
    with pytest.raises(ApiError, match='violates PodSecurity "restricted') as refusal:
        client.create(manifest, namespace)
    assert refusal.value.code == 403


def test_a_claim_is_written_by_a_pod_and_read_on_the_machine(
    client: Client, namespace: str, storage_claim: StorageClaim
) -> None:
    mount = [{"name": "runs", "mountPath": "/runs"}]
    manifest = pod(
        "writer",
        container("main", "sh", "-c", "mkdir /runs/a && echo kept >/runs/a/file", volumeMounts=mount),
        volumes=[{"name": "runs", "persistentVolumeClaim": {"claimName": storage_claim.name}}],
    )
    client.create(manifest, namespace)
    assert ended(client, "writer", namespace)["status"]["phase"] == "Succeeded"
    assert (storage_claim.folder / "a" / "file").read_text() == "kept\n"


def test_sidecar_and_shared_processes_end_as_the_main_container_ends(client: Client, namespace: str) -> None:
    sidecar = container("sidecar", "sleep", "600", restartPolicy="Always")
    main = container("main", "sh", "-c", "cat /proc/*/cmdline | tr '\\0' ' ' | grep -c '[s]leep 600'; exit 3")
    manifest = pod("both", main, initContainers=[sidecar], shareProcessNamespace=True)
    client.create(manifest, namespace)
    finished = ended(client, "both", namespace)
    assert client.logs("both", namespace, "main").strip() == "1"
    assert finished["status"]["phase"] == "Failed"


@pytest.mark.usefixtures("simulated_nodes")
def test_a_simulated_pod_runs_and_ends_as_scripted(client: Client, namespace: str) -> None:
    sidecar = container("ray", "true", restartPolicy="Always")
    manifest = pod("scripted", container("driver", "true"), container("other", "true"), initContainers=[sidecar])
    client.create(on_simulated_nodes(manifest), namespace)
    running = client.wait_for("pods", "scripted", namespace, phase_is("Running"), timeout_s=20)["status"]
    assert running["initContainerStatuses"][0]["started"]
    assert running["initContainerStatuses"][0]["state"].keys() == {"running"}
    assert condition_status({"status": running}, "Ready") == "True"
    assert running["podIP"]

    client.annotate("pods", "scripted", namespace, exit_code="137", exit_reason="OOMKilled", exit_message="gone")
    failed = client.wait_for("pods", "scripted", namespace, phase_is("Failed"), timeout_s=20)["status"]
    driver = failed["containerStatuses"][0]["state"]["terminated"]
    assert (driver["exitCode"], driver["reason"], driver["message"]) == (137, "OOMKilled", "gone")
    assert failed["containerStatuses"][1]["state"]["terminated"]["exitCode"] == 0
    assert condition_status({"status": failed}, "Ready") == "False"


@pytest.mark.usefixtures("simulated_nodes")
@pytest.mark.parametrize(
    ("script", "phase"),
    [
        pytest.param({"exit-code": "0"}, "Succeeded", id="exit code 0 succeeds"),
        pytest.param({"exit-code": "1", "pod-reason": "Evicted"}, "Failed", id="an evicted pod fails"),
        pytest.param({"exit-code": "0", "exit-after": "1s", "ready-after": "1s"}, "Succeeded", id="delays"),
    ],
)
def test_a_simulated_pod_is_scripted_from_the_start(
    client: Client, namespace: str, script: dict[str, str], phase: str
) -> None:
    annotations = {f"test.scaling.dev/{key}": value for key, value in script.items()}
    manifest = pod("scripted", container("driver", "true"), annotations=annotations)
    client.create(on_simulated_nodes(manifest), namespace)
    finished = client.wait_for("pods", "scripted", namespace, phase_is("Succeeded", "Failed"), timeout_s=20)
    assert finished["status"]["phase"] == phase
    assert finished["status"].get("reason") == script.get("pod-reason")


@pytest.mark.usefixtures("simulated_nodes")
def test_a_simulated_pod_can_stay_pending_and_be_deleted(client: Client, namespace: str) -> None:
    annotations = {"test.scaling.dev/stay-pending": "true"}
    client.create(on_simulated_nodes(pod("waits", container("main", "true"), annotations=annotations)), namespace)
    client.wait_for("pods", "waits", namespace, lambda item: item["spec"].get("nodeName"), timeout_s=20)
    assert client.get("pods", "waits", namespace)["status"]["phase"] == "Pending"
    client.annotate("pods", "waits", namespace, stay_pending=None)
    client.wait_for("pods", "waits", namespace, phase_is("Running"), timeout_s=20)
    client.delete("pods", "waits", namespace)
    client.wait_gone("pods", "waits", namespace, timeout_s=20)
