"""A manifest's spec in the form that policies read. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from scaling_api.base import violations
from scaling_api.problems import dotted
from scaling_api.spec import ScalingJob

from .observe import spec_digest
from .resources.overrides import check_overrides
from .resources.size import check_size
from .runtime.objects import Object


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a manifest asks for; `invalid` says why it cannot be run, `job` is None when not even the models take it."""

    generation: int
    job: ScalingJob | None
    invalid: str | None
    digest: str


def parse(manifest: Object, known: Parsed | None) -> Parsed:
    """The manifest's spec, read anew only when it is not that of `known`, which is the same job's."""
    generation = manifest["metadata"].get("generation", 0)
    if known is not None and known.generation == generation:
        return known
    job, invalid = _read(manifest)
    return Parsed(generation, job, invalid, spec_digest(job.spec) if job is not None else "")


def _read(manifest: Object) -> tuple[ScalingJob | None, str | None]:
    """The job, and a sentence when it cannot be run."""
    try:
        job = ScalingJob.model_validate(manifest)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return None, f"{dotted(first['loc'])}: {first['msg']}"
    broken = [f"{dotted(found.path)}: {found.message}" for found in violations(job)]
    problems = broken + check_overrides(job.spec.cluster.pod_overrides)
    # What is not to be rendered for another reason need not be measured.
    problems += check_size(job) if not problems else []
    return job, "; ".join(problems) or None
