"""The Pod Security Standard "restricted", as its text says, over a pod given as a dict.

Written from the standard and not from our builders, so that it can disagree with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_VOLUME_TYPES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def restricted_violations(pod: dict[str, Any]) -> list[str]:
    """What the admission plugin would object to; empty when the pod satisfies "restricted"."""
    return [*_of_pod(pod["spec"]), *(f for c in _containers(pod["spec"]) for f in _of_container(pod["spec"], c))]


def _containers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for field in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(field, [])


def _of_pod(spec: dict[str, Any]) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"{field} is set"
    for volume in spec.get("volumes", []):
        if kinds := set(volume) - {"name"} - _VOLUME_TYPES:
            yield f"volume {volume['name']} is of type {kinds}"
    if spec.get("securityContext", {}).get("sysctls"):
        yield "sysctls are set"


def _of_container(spec: dict[str, Any], container: dict[str, Any]) -> Iterator[str]:
    name = container["name"]
    own = container.get("securityContext", {})
    pod = spec.get("securityContext", {})

    def effective(field: str) -> Any:
        return own.get(field, pod.get(field))

    if own.get("privileged"):
        yield f"{name} is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name} may escalate privileges"
    if effective("runAsNonRoot") is not True:
        yield f"{name} does not say runAsNonRoot"
    if effective("runAsUser") == 0:
        yield f"{name} runs as root"
    if (effective("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield f"{name} has no seccomp profile"
    if "ALL" not in own.get("capabilities", {}).get("drop", []):
        yield f"{name} keeps capabilities"
    if set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{name} adds capabilities"
    if own.get("procMount", "Default") != "Default":
        yield f"{name} has an unmasked /proc"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield f"{name} takes a port of the host"
