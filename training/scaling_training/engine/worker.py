"""What runs in each training process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from scaling_training.checkpoint import CheckpointRef
from scaling_training.clock import process_started_at
from scaling_training.engine import mailbox
from scaling_training.engine.device import device_for
from scaling_training.train.types import TrainingProgress, outcome_to_dict


@dataclass(frozen=True, slots=True)
class WorkerTask:
    """All that a training process needs to know; small and picklable."""

    spec: dict[str, Any]  # as JSON values: no class of the driver's version has to be unpickled
    storage_root: str
    attempt: int
    resume: CheckpointRef | None
    gpus: int = 0  # that each process was given
    server: Any = None  # handles of the parameter server, for an update mode that needs one


def run(task: WorkerTask) -> dict[str, Any]:
    """Train as the rank that Ray gave this process; returns the outcome as plain values."""
    mailbox.mark("workerStarted", process_started_at())
    mailbox.mark("trainCalled", time.time())

    import ray.train

    from scaling_api.spec import ScalingJobSpec
    from scaling_training.storage import Storage
    from scaling_training.train.types import World
    from scaling_training.update.modes import update_mode

    spec = ScalingJobSpec.model_validate(task.spec)
    context = ray.train.get_context()
    train = update_mode(spec).load()
    mailbox.mark("loopImported", time.time())
    outcome = train(
        spec,
        server=task.server,
        storage=Storage(task.storage_root),
        attempt=task.attempt,
        world=World(rank=context.get_world_rank(), size=context.get_world_size(), device=device_for(task.gpus)),
        observer=_observe,
        stop_requested=mailbox.stop_requested,
        resume=task.resume,
        beat=mailbox.beat,
    )
    return outcome_to_dict(outcome)


def _observe(progress: TrainingProgress) -> None:
    mailbox.mark("loopReady", time.time())
    if progress.first_step_at is not None:
        mailbox.mark("firstStep", progress.first_step_at)
    mailbox.post(progress)
