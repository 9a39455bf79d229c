"""What a driver is told: by the operator in its environment, or by whoever calls it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scaling_api import driver as contract
from scaling_api.spec import ScalingJob
from scaling_training.errors import UserError
from scaling_training.storage import Storage
from scaling_training.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Settings:
    """What a driver is told."""

    job: ScalingJob
    storage: Storage
    attempt: int
    storage_root: str | None = None  # what resumeFrom is relative to
    ray_address: str | None = None  # None: start Ray on this machine
    timeline: Timeline = field(default_factory=Timeline)


def settings_from_environment(environment: Mapping[str, str]) -> Settings:
    """What the operator says; UserError names a variable that is missing or a manifest that is wrong."""

    def value(name: str) -> str:
        found = environment.get(name)
        if not found:
            raise UserError(f"{name} is not set: scaling-driver runs in pods of the operator; use scalingjob run here")
        return found

    path = Path(value(contract.ENV_SPEC))
    try:
        job = ScalingJob.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no ScalingJob that this version reads: {error}") from error
    return Settings(
        job=job,
        storage=Storage(value(contract.ENV_RUN_DIR)),
        attempt=int(value(contract.ENV_ATTEMPT)),
        storage_root=environment.get(contract.ENV_STORAGE_ROOT),
        ray_address=environment.get(contract.ENV_RAY_ADDRESS),
    )
