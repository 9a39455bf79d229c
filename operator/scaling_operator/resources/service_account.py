"""The ServiceAccount of training pods: an identity without any rights, one per namespace.

It belongs to the namespace and not to a job, so it has no owner and outlives the jobs that use it.
"""

from __future__ import annotations

from typing import Any

from scaling_api import names


def build_service_account(namespace: str) -> dict[str, Any]:
    """The ServiceAccount that jobs in `namespace` use unless they name their own."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {
            "name": names.SERVICE_ACCOUNT,
            "namespace": namespace,
            "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY},
        },
        "automountServiceAccountToken": False,
    }
