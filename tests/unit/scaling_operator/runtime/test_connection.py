from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from scaling_operator.runtime.connection import (
    ConfigurationError,
    InClusterConnection,
    KubeconfigConnection,
    find_connection,
)

POD_ENVIRONMENT = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def certificate() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def service_account(tmp_path: Path, certificate: bytes) -> Path:
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_bytes(certificate)
    return tmp_path


def write_kubeconfig(path: Path, user: dict[str, object], **cluster: object) -> str:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://api.example:6443/", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


async def test_a_pod_uses_its_service_account_and_reads_the_token_again(service_account: Path) -> None:
    clock = Clock()
    connection = InClusterConnection(directory=service_account, environ=POD_ENVIRONMENT, clock=clock)
    assert connection.server == "https://10.96.0.1:443"
    assert connection.authorization == "Bearer first"
    (service_account / "token").write_text("second")
    clock.now = 59
    await connection.refresh()
    assert connection.authorization == "Bearer first"
    clock.now = 61
    await connection.refresh()
    assert connection.authorization == "Bearer second"


async def test_a_refused_token_is_read_again_at_once(service_account: Path) -> None:
    connection = InClusterConnection(directory=service_account, environ=POD_ENVIRONMENT, clock=Clock())
    (service_account / "token").write_text("second")
    await connection.refresh(rejected=True)
    assert connection.authorization == "Bearer second"


def test_an_ipv6_address_is_bracketed(service_account: Path) -> None:
    environ = POD_ENVIRONMENT | {"KUBERNETES_SERVICE_HOST": "fd00::1"}
    assert InClusterConnection(directory=service_account, environ=environ).server == "https://[fd00::1]:443"


def test_a_pod_without_token_is_told_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="automountServiceAccountToken"):
        InClusterConnection(directory=tmp_path, environ=POD_ENVIRONMENT)


async def test_a_kubeconfig_with_a_token_file_follows_its_rotation(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    path = write_kubeconfig(
        tmp_path / "config",
        {"tokenFile": str(token)},
        **{"insecure-skip-tls-verify": True, "tls-server-name": "other"},
    )
    connection = await KubeconfigConnection.load(path)
    assert connection.server == "https://api.example:6443"
    assert connection.authorization == "Bearer first"
    assert connection.server_hostname == "other"
    assert connection.ssl_context is not None
    assert connection.ssl_context.verify_mode == ssl.CERT_NONE
    token.write_text("second")
    connection._loaded_at -= 61
    await connection.refresh()
    assert connection.authorization == "Bearer second"


async def test_an_exec_plugin_runs_once_and_again_when_its_token_is_refused(tmp_path: Path) -> None:
    counter = tmp_path / "calls"
    plugin = tmp_path / "plugin.sh"
    plugin.write_text(
        f"#!/bin/sh\necho x >> {counter}\nn=$(wc -l < {counter})\n"
        'echo "{\\"apiVersion\\":\\"client.authentication.k8s.io/v1\\",\\"kind\\":\\"ExecCredential\\",'
        '\\"status\\":{\\"token\\":\\"token-$((n))\\"}}"\n'
    )
    plugin.chmod(0o755)
    path = write_kubeconfig(
        tmp_path / "config",
        {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "args": []}},
        **{"insecure-skip-tls-verify": True},
    )
    connection = await KubeconfigConnection.load(path)
    assert connection.authorization == "Bearer token-1"
    connection._loaded_at -= 61
    await connection.refresh()
    assert connection.authorization == "Bearer token-1"
    await connection.refresh(rejected=True)
    await connection.refresh(rejected=True)
    assert connection.authorization == "Bearer token-2"


async def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        await find_connection(str(tmp_path / "nowhere"))


async def test_without_any_configuration_the_choices_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"set KUBECONFIG.*run in a pod"):
        await find_connection()


async def test_a_credential_that_cannot_be_renewed_stays_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    path = write_kubeconfig(tmp_path / "config", {"tokenFile": str(token)}, **{"insecure-skip-tls-verify": True})
    connection = await KubeconfigConnection.load(path)
    token.unlink()
    connection._loaded_at -= 61
    await connection.refresh()
    assert connection.authorization == "Bearer first"
    assert "could not be renewed" in caplog.text
