"""Who may talk to an attempt's pods: each other on every port, and everybody to the metrics port.

Ray opens random ports between its nodes, so ports cannot be listed; the attempt's labels can. Ways out stay
open: data, object stores and package indexes are the user's affair, and a policy of the namespace's owner adds up.
"""

from __future__ import annotations

from typing import Any

from scaling_api import names
from scaling_api.driver import PORT_METRICS
from scaling_api.spec import ScalingJob

from .identity import attempt_selector, object_meta


def build_network_policy(job: ScalingJob, attempt: int) -> dict[str, Any]:
    """The NetworkPolicy of the attempt's pods."""
    peers = {"podSelector": {"matchLabels": attempt_selector(job, attempt)}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": object_meta(job, attempt, names.ray_cluster(job.metadata.name, attempt)),
        "spec": {
            **peers,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [peers]}, {"ports": [{"protocol": "TCP", "port": PORT_METRICS}]}],
        },
    }
