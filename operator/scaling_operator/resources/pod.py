"""What head and worker pods have in common: identity, security, image.

All of it satisfies Pod Security "restricted". No pod has a service-account token mounted by default; the one
that the driver shows to the operator is projected on purpose, with an audience that opens nothing else.
"""

from __future__ import annotations

from typing import Any

from scaling_api import names
from scaling_api.spec import Resources, ScalingJob

from .environment import storage_credentials
from .identity import object_meta

USER_ID = 1000
# A pod on a node that stopped answering is given up after so long (Kubernetes' default is 300 s).
NODE_LOST_AFTER_S = 30

POD_SECURITY_CONTEXT = {
    "runAsNonRoot": True,
    "runAsUser": USER_ID,
    "runAsGroup": USER_ID,
    "fsGroup": USER_ID,
    # A large claim is not walked through at every pod start.
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY_CONTEXT = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}

# Raises the soft limit of open files as far as the container may, at most to 65536; Ray holds a few per process.
RAISE_OPEN_FILES = (
    'files=$(ulimit -Hn); if [ "$files" = unlimited ] || [ "$files" -gt 65536 ]; then files=65536; fi; '
    'ulimit -Sn "$files" || true'
)


def build_pod(
    job: ScalingJob, attempt: int, *, name: str, labels: dict[str, str], grace_period_s: int, **spec: Any
) -> dict[str, Any]:
    """A pod of the attempt with `spec` (containers, volumes, …) on top of what all pods share."""
    cluster = job.spec.cluster
    common: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": cluster.service_account_name or names.SERVICE_ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY_CONTEXT,
        "terminationGracePeriodSeconds": grace_period_s,
        "tolerations": [
            {
                "key": f"node.kubernetes.io/{trouble}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": NODE_LOST_AFTER_S,
            }
            for trouble in ("not-ready", "unreachable")
        ],
    }
    if cluster.image_pull_secrets:
        common["imagePullSecrets"] = [{"name": secret} for secret in cluster.image_pull_secrets]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": object_meta(job, attempt, name, labels),
        "spec": {**common, **spec},
    }


def build_container(
    job: ScalingJob,
    name: str,
    *,
    image: str,
    command: list[str],
    env: dict[str, dict[str, Any]],
    mounts: list[dict[str, Any]],
    resources: dict[str, Any],
    **extra: Any,
) -> dict[str, Any]:
    """A container of the job's image; `extra` are further fields of it."""
    cluster = job.spec.cluster
    container: dict[str, Any] = {
        "name": name,
        "image": cluster.image or image,
        "imagePullPolicy": cluster.image_pull_policy,
        "command": command,
        "env": list(env.values()),
        "volumeMounts": mounts,
        "resources": resources,
        "securityContext": CONTAINER_SECURITY_CONTEXT,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **extra,
    }
    if credentials := storage_credentials(job):
        container["envFrom"] = credentials
    return container


def container_resources(resources: Resources) -> dict[str, Any]:
    """`resources` as a container's, without empty maps."""
    return {key: dict(value) for key, value in resources.to_json_dict().items() if value}
