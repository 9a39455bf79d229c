from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from scaling_operator.main import check_installed
from scaling_operator.mirrors import build_mirrors, trim_pod
from scaling_operator.runtime.client import ApiClient
from scaling_operator.runtime.connection import ConfigurationError
from tests.unit.scaling_operator.runtime.scripted_server import Answer, ScriptedServer, answer, failure

GROUP = "/apis/scaling.dev/v1alpha1"


@pytest.mark.parametrize(
    "reply",
    [pytest.param(failure(404, "NotFound"), id="no such group"), pytest.param(answer({"resources": []}), id="no kind")],
)
async def test_a_missing_crd_is_said_in_a_sentence(reply: Answer) -> None:
    async with ScriptedServer() as server, ApiClient(server.connection()) as client:
        server.on("GET", GROUP, reply)
        with pytest.raises(ConfigurationError, match="install the CRD with `kubectl apply -k manifests/`"):
            await check_installed(client)


async def test_an_installed_crd_passes() -> None:
    async with ScriptedServer() as server, ApiClient(server.connection()) as client:
        server.on("GET", GROUP, answer({"resources": [{"name": "scalingjobs"}]}))
        await check_installed(client)


async def test_a_server_in_trouble_is_no_missing_crd(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with ScriptedServer() as server, ApiClient(server.connection()) as client:
        server.on("GET", GROUP, failure(403, "Forbidden", "no discovery for you"))
        await check_installed(client)
    assert "no discovery for you" in caplog.text


def test_help_is_instant_because_it_imports_nothing_heavy() -> None:
    heavy = "aiohttp", "prometheus_client", "cryptography", "kubernetes", "pydantic.main"
    code = (
        "import sys, scaling_operator.main as m\n"
        "try: m.main(['--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--runtime-image" in done.stdout
    assert done.stderr.strip() in ("[]", "['pydantic.main']")


async def test_secrets_are_not_mirrored() -> None:
    async with ScriptedServer() as server, ApiClient(server.connection()) as client:
        mirrors = build_mirrors(client)
    assert {reflector.store.name for reflector in mirrors.reflectors} == {
        "scalingjobs",
        "pods",
        "services",
        "networkpolicies",
    }


def test_a_cached_pod_keeps_its_node_and_status_and_loses_its_spec() -> None:
    pod = {"metadata": {"name": "a"}, "spec": {"nodeName": "n", "containers": [{}]}, "status": {"phase": "Running"}}
    assert trim_pod(pod) == {"metadata": {"name": "a"}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}}
    assert trim_pod({"metadata": {"name": "a"}, "spec": {"containers": []}})["spec"] == {}
