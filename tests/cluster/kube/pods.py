"""Manifests of small test pods that Pod Security "restricted" admits."""

from __future__ import annotations

from typing import Any

from tests.cluster.kube.images import RUNTIME_IMAGE, USER_ID
from tests.cluster.kube.kwok import SIMULATED_SELECTOR, SIMULATED_TOLERATION


def container(name: str, *command: str, **more: Any) -> dict[str, Any]:
    """A container of the runtime image; `more` are further fields of it."""
    return {
        "name": name,
        "image": RUNTIME_IMAGE,
        "command": list(command),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}},
        "env": [{"name": "HOME", "value": "/tmp"}],
        **more,
    }


def pod(
    name: str, *containers: dict[str, Any], annotations: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    """A pod that runs once; `spec` adds to its spec."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}, "annotations": annotations or {}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 2,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER_ID,
                "fsGroup": USER_ID,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": list(containers),
            **spec,
        },
    }


def on_simulated_nodes(manifest: dict[str, Any]) -> dict[str, Any]:
    """The same pod, to be placed on a simulated node."""
    placement = {"tolerations": [SIMULATED_TOLERATION], "nodeSelector": SIMULATED_SELECTOR}
    return {**manifest, "spec": manifest["spec"] | placement}


def headless_service(name: str, app: str) -> dict[str, Any]:
    """A headless Service over the pods labelled `app`, ready or not."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"app": app}},
    }
