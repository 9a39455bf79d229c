"""The attempt's Secret: Ray's token, the CA bundle, the job as it was resolved, the pods as they were rendered.

Immutable, so that nothing of an attempt can change under it and kubelets need not watch it. All pods come from the
templates in it, replacements too: neither an upgrade of the operator nor an edit mixes two versions in one Ray cluster.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from scaling_api import names
from scaling_api.driver import (
    SECRET_KEY_CA,
    SECRET_KEY_MANIFEST,
    SECRET_KEY_RAY_TOKEN,
    SECRET_KEY_TEMPLATES,
)
from scaling_api.spec import API_VERSION, KIND, ScalingJob

from .identity import object_meta


def build_secret(
    job: ScalingJob,
    attempt: int,
    *,
    ray_token: str,
    ca_bundle: str,
    head: dict[str, Any],
    worker_templates: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """The Secret of the attempt; its values stand under `data`, as the API server gives them back."""
    values = {
        SECRET_KEY_RAY_TOKEN: ray_token,
        SECRET_KEY_CA: ca_bundle,
        SECRET_KEY_MANIFEST: _json(resolved_manifest(job)),
        SECRET_KEY_TEMPLATES: _json({"head": head, "workers": worker_templates}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": object_meta(job, attempt, names.ray_cluster(job.metadata.name, attempt)),
        "immutable": True,
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }


def resolved_manifest(job: ScalingJob) -> dict[str, Any]:
    """What the driver reads: the spec with all defaults filled in, and the job's identity."""
    identity = {
        "name": job.metadata.name,
        "namespace": job.metadata.namespace,
        "uid": job.metadata.uid,
        "generation": job.metadata.generation,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {key: value for key, value in identity.items() if value is not None},
        "spec": job.spec.to_json_dict(),
    }


def stored_templates(secret: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The head, and the worker templates by group, from the attempt's Secret.

    Raises KeyError or ValueError if it is not one.
    """
    templates = json.loads(base64.b64decode(secret["data"][SECRET_KEY_TEMPLATES]))
    return templates["head"], templates["workers"]


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
