"""The head's Service: a DNS name for the head pod, there before the pod is ready.

Headless, because workers want the pod itself; and it publishes addresses that are not ready, because workers
start beside the head and ask for it while it comes up.
"""

from __future__ import annotations

from typing import Any

from scaling_api import names
from scaling_api.driver import PORT_GCS, PORT_METRICS
from scaling_api.spec import ScalingJob

from .identity import attempt_selector, object_meta


def build_service(job: ScalingJob, attempt: int) -> dict[str, Any]:
    """The headless Service of the attempt's head pod."""
    ports = {"gcs": PORT_GCS, "metrics": PORT_METRICS}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": object_meta(job, attempt, names.ray_cluster(job.metadata.name, attempt)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {**attempt_selector(job, attempt), names.LABEL_ROLE: names.ROLE_HEAD},
            "ports": [{"name": name, "port": port, "targetPort": port} for name, port in ports.items()],
        },
    }
