"""What runs in each training process."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from scaling_training.checkpoint import CheckpointRef
from scaling_training.clock import process_started_at
from scaling_training.data.access import TestAccess
from scaling_training.engine import mailbox
from scaling_training.engine.device import device_for
from scaling_training.errors import UserError
from scaling_training.factory import note_place, told
from scaling_training.train.types import TrainingProgress, outcome_to_dict
from scaling_training.world import World

_SHARES = 10_000


@dataclass(frozen=True, slots=True)
class Training:
    """What to train: ``key`` names the work (see `checkpoint.key`), ``resume`` a checkpoint of another run."""

    key: str
    resume: CheckpointRef | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What to evaluate; the token opens the test split."""

    checkpoint: CheckpointRef
    access: TestAccess


@dataclass(frozen=True, slots=True)
class WorkerTask:
    """All that a training process needs to know; small and picklable."""

    spec: dict[str, Any]  # as JSON values: no class of the driver's version has to be unpickled
    storage_root: str
    attempt: int
    job: Training | Evaluation
    gpus: int = 0  # that each process was given
    server: Any = None  # handles of the parameter server, for an update mode that needs one


def run(task: WorkerTask) -> dict[str, Any]:
    """Train, or evaluate, as the rank that Ray gave this process; returns the outcome as plain values.

    An exception leaves with the line of the user's code that it came from; UserError for a sys.exit there, which would
    end the process in silence.
    """
    modules = [str(section["factory"]) for section in task.spec.values() if _has_factory(section)]
    try:
        return _do(task)
    except SystemExit as error:
        raise UserError(f"the job's own code {told(error, modules=modules)}; raise an exception instead") from error
    except Exception as error:
        note_place(error, modules=modules)
        raise


def _has_factory(section: Any) -> bool:
    return isinstance(section, dict) and bool(section.get("factory"))


def _do(task: WorkerTask) -> dict[str, Any]:
    if isinstance(task.job, Evaluation):
        return _evaluate(task, task.job)
    mailbox.mark("workerStarted", process_started_at())
    mailbox.mark("trainCalled", time.time())

    from scaling_api.spec import ScalingJobSpec
    from scaling_training.storage import Storage
    from scaling_training.train.loops import loop_of

    spec = ScalingJobSpec.model_validate(task.spec)
    world = _world(task)
    if world.is_first:
        logging.getLogger("scaling_training").addHandler(mailbox.Warnings())
    train = loop_of(spec)
    mailbox.mark("loopImported", time.time())
    outcome = train(
        spec,
        server=task.server,
        storage=Storage(task.storage_root),
        attempt=task.attempt,
        world=world,
        observer=_observe,
        stop_requested=mailbox.stop_requested,
        key=task.job.key,
        resume=task.job.resume,
        beat=mailbox.beat,
    )
    return outcome_to_dict(outcome)


def _evaluate(task: WorkerTask, evaluation: Evaluation) -> dict[str, Any]:
    """The metrics of each split, and whether a stop came before them."""
    from scaling_api.spec import ScalingJobSpec
    from scaling_training.code import install
    from scaling_training.data import open_dataset
    from scaling_training.measure import measure
    from scaling_training.storage import Storage

    spec, world = ScalingJobSpec.model_validate(task.spec), _world(task)
    if spec.code is not None:
        install(spec.code)

    def share_done(share: float) -> None:
        # The engine counts in steps what a group has gained before it was lost.
        step = round(share * _SHARES)
        mailbox.post(TrainingProgress(epoch=0, epochs=1, step=step, steps=_SHARES, workers=world.size))

    share_done(0.0)
    dataset = open_dataset(spec.dataset)
    found = measure(
        spec,
        {"test": dataset.open_test(evaluation.access), "validation": dataset.validation},
        dataset=dataset,
        storage=Storage(task.storage_root),
        checkpoint=evaluation.checkpoint,
        world=world,
        share_done=share_done,
        stop_requested=mailbox.stop_requested,
        beat=mailbox.beat,
    )
    metrics = {} if found is None else {split: metrics.to_dict() for split, metrics in found.items()}
    return {"stopped": found is None, "metrics": metrics}


def _world(task: WorkerTask) -> World:
    import ray.train

    context = ray.train.get_context()
    return World(rank=context.get_world_rank(), size=context.get_world_size(), device=device_for(task.gpus))


def _observe(progress: TrainingProgress) -> None:
    mailbox.mark("loopReady", time.time())
    if progress.first_step_at is not None:
        mailbox.mark("firstStep", progress.first_step_at)
    mailbox.post(progress)
