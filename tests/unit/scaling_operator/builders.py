"""Jobs to render, from the least that is valid to one that uses every option."""

from __future__ import annotations

from typing import Any

from scaling_api.spec import ScalingJob
from scaling_operator.resources.overrides import merge

_MINIMAL: dict[str, Any] = {
    "apiVersion": "scaling.dev/v1alpha1",
    "kind": "ScalingJob",
    "metadata": {"name": "mnist", "namespace": "team", "uid": "6c9f-uid", "generation": 1},
    "spec": {
        "storage": {"claimName": "runs"},
        "model": {"name": "small-cnn"},
        "dataset": {"name": "mnist-5k"},
        "training": {"epochs": 1},
    },
}

EVERY_OPTION: dict[str, Any] = {
    "storage": {"uri": "s3://bucket/runs", "secretRef": {"name": "s3-keys"}},
    "cluster": {
        "image": "registry.example.com/team/runtime:7",
        "imagePullPolicy": "Always",
        "imagePullSecrets": ["pull-a", "pull-b"],
        "serviceAccountName": "trainer",
        "env": [
            {"name": "OMP_NUM_THREADS", "value": "7"},
            {"name": "WANDB_KEY", "secretKeyRef": {"name": "wandb", "key": "api-key"}},
        ],
        "volumes": [
            {"name": "data", "mountPath": "/data", "claimName": "images", "readOnly": True},
            {"name": "tmp", "mountPath": "/etc/keys", "secretName": "keys"},
            {"name": "conf", "mountPath": "/etc/conf", "configMapName": "conf"},
        ],
        "head": {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "4", "memory": "8Gi"}}},
        "workers": [
            {
                "name": "gpu",
                "min": 1,
                "max": 4,
                "slots": 2,
                "resources": {
                    "requests": {"cpu": "6"},
                    "limits": {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "2"},
                },
            },
            {"name": "cpu", "min": 0, "max": 2, "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}},
        ],
        "podOverrides": {
            "metadata": {"labels": {"team": "vision"}, "annotations": {"note": "x"}},
            "spec": {"nodeSelector": {"pool": "a"}, "terminationGracePeriodSeconds": 300},
        },
    },
}


def job(spec: dict[str, Any] | None = None, **metadata: Any) -> ScalingJob:
    """The minimal job with `spec` laid over its own and these fields of metadata."""
    manifest = merge(_MINIMAL, {"metadata": metadata, "spec": spec or {}})
    if "uri" in (spec or {}).get("storage", {}):
        manifest["spec"]["storage"].pop("claimName")
    return ScalingJob.model_validate(manifest)
