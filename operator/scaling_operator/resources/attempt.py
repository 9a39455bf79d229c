"""All objects of an attempt: one Ray cluster with its driver.

`render_attempt` is pure: the same job, attempt and settings give the same objects, but for the token, which
the caller draws. Workers come as templates, one per group, because their names carry slot and incarnation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scaling_api.spec import ScalingJob

from ..settings import Settings
from .head import build_head
from .network_policy import build_network_policy
from .overrides import apply_overrides
from .secret import build_secret
from .service import build_service
from .worker import build_worker_template, worker_pod

__all__ = ["AttemptObjects", "render_attempt", "worker_pod"]


@dataclass(frozen=True, slots=True)
class AttemptObjects:
    """What an attempt consists of; `worker_templates` by group, for `worker_pod`."""

    secret: dict[str, Any]
    service: dict[str, Any]
    network_policy: dict[str, Any]
    head: dict[str, Any]
    worker_templates: dict[str, dict[str, Any]]


def render_attempt(
    job: ScalingJob, *, attempt: int, settings: Settings, ray_token: str, ca_bundle: str
) -> AttemptObjects:
    """The attempt's objects. The job has namespace and uid, and its podOverrides passed `check_overrides`."""
    cluster = job.spec.cluster
    url = settings.driver_url(job.metadata.namespace or "", job.metadata.name)
    head = apply_overrides(
        build_head(job, attempt, image=settings.runtime_image, progress_url=url), cluster.pod_overrides
    )
    templates = {
        group.name: apply_overrides(
            build_worker_template(job, attempt, group, image=settings.runtime_image), cluster.pod_overrides
        )
        for group in cluster.workers
    }
    return AttemptObjects(
        secret=build_secret(
            job, attempt, ray_token=ray_token, ca_bundle=ca_bundle, head=head, worker_templates=templates
        ),
        service=build_service(job, attempt),
        network_policy=build_network_policy(job, attempt),
        head=head,
        worker_templates=templates,
    )
