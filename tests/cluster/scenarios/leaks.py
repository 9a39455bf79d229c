"""Secrets in logs: there must be none, of nobody."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator

from scaling_api.driver import SECRET_KEY_CA, SECRET_KEY_MANIFEST, SECRET_KEY_TEMPLATES
from tests.cluster.kube.access import Access
from tests.cluster.kube.client import ApiError, Client, Object
from tests.cluster.kube.controlplane import NODE_NAME

# What lies in Secrets beside what is secret.
_PUBLIC = {SECRET_KEY_CA, SECRET_KEY_MANIFEST, SECRET_KEY_TEMPLATES, "tls.crt"}
# Tokens of ServiceAccounts are in no Secret: whatever is signed like one.
_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+")
# Shorter ones are found in any text.
_SHORTEST = 8


def found(access: Access, *namespaces: str) -> list[str]:
    """Where a secret of these namespaces stands in a log of their pods, as it is now; without the secret."""
    secrets = {
        f"{secret['metadata']['name']}/{key}": list(_forms(value))
        for namespace in namespaces
        for secret in access.client.list("secrets", namespace)
        for key, value in (secret.get("data") or {}).items()
        if key not in _PUBLIC
    }
    leaks: list[str] = []
    for namespace in namespaces:
        for pod in access.client.list("pods", namespace, fields=f"spec.nodeName={NODE_NAME}"):
            for container, log in _logs(access.client, pod):
                where = f"the log of {pod['metadata']['name']}/{container} holds"
                leaks += [f"{where} {name}" for name, forms in secrets.items() if any(form in log for form in forms)]
                leaks += [f"{where} a token"] if _TOKEN.search(log) else []
    return leaks


def _forms(value: str) -> Iterator[str]:
    """A secret as it may be written: plain and in base64, a key of several lines by each of them."""
    yield value
    for line in b64decode(value).decode(errors="replace").splitlines():
        if len(line) >= _SHORTEST and not line.startswith("-----"):
            yield line
            yield b64encode(line.encode()).decode()


def _logs(client: Client, pod: Object) -> Iterator[tuple[str, str]]:
    metadata, spec = pod["metadata"], pod["spec"]
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for previous in (False, True):
            try:
                text = client.logs(metadata["name"], metadata["namespace"], container["name"], previous=previous)
            except ApiError:  # it has not started, or not twice
                continue
            yield container["name"], text
