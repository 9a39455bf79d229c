"""Evaluation: the best checkpoint on validation data and, once, on test data.

A group of processes takes seconds to start, which a small data set is not worth: the driver begins by itself, and
leaves to the workers of the cluster what would take it long. They begin anew, because shares are not handed over.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from scaling_api.spec import ScalingJobSpec
from scaling_training.checkpoint import CheckpointRef
from scaling_training.engine.run import StoppedError
from scaling_training.engine.sizing import has_gpus
from scaling_training.engine.worker import Evaluation, WorkerTask
from scaling_training.evaluate.metrics import Objective
from scaling_training.ledger import Output
from scaling_training.stages.base import Inputs, Run, Stage
from scaling_training.stages.train import best_checkpoint
from scaling_training.train import preload
from scaling_training.train.early_stopping import objective_of
from scaling_training.world import World

if TYPE_CHECKING:
    import torch

    from scaling_training.data import TestAccess

# What the driver may take by itself, and after how long that can be told.
PATIENCE_S = 20.0
LOOK_S = 2.0


def _depends_on(run: Run) -> Mapping[str, Any]:
    return {"data": run.data_fingerprint}


def _run(run: Run, inputs: Inputs) -> Output:
    from scaling_training.data import TestAccess

    checkpoint, access = best_checkpoint(inputs["train"]), TestAccess("evaluate")
    found: Output | None = None
    if run.workers_evaluate is None or not _for_the_workers(run.spec):
        found = _here(run, checkpoint, access)
    if found is None:
        assert run.workers_evaluate is not None, "nobody else has patience"
        task = WorkerTask(
            spec=run.spec.to_json_dict(),
            storage_root=run.storage.root,
            attempt=run.attempt,
            job=Evaluation(checkpoint, access),
        )
        # What of training is shown and noted stays as it is.
        watch = replace(
            run.watch,
            progress=lambda progress: run.watch.share(progress.percent / 100.0),
            mark=lambda name, at=0.0: None,
        )
        found = run.workers_evaluate(task, watch)
    objective = objective_of(run.spec.training.early_stopping, Objective(**found["test"]["objective"]))
    return {"checkpoint": checkpoint.to_dict(), "objective": asdict(objective), **found}


def _for_the_workers(spec: ScalingJobSpec) -> bool:
    """Whether they are far better at it than the head: they have GPUs, or the model is too large for one process."""
    return spec.training.parallelism.model_group > 1 or any(has_gpus(group) for group in spec.cluster.workers)


def _here(run: Run, checkpoint: CheckpointRef, access: TestAccess) -> Output | None:
    """The metrics of each split, by this process; None when it takes so long that the workers had better do it."""
    from scaling_training.measure import measure

    preload.wait(preload.METRICS_MODULES)
    dataset, watch = run.dataset, run.watch
    began = time.monotonic()

    def share_done(share: float) -> None:
        watch.share(share)
        if run.workers_evaluate is not None and takes_long(share, time.monotonic() - began):
            raise _TakesLongError

    def work() -> Output | None:
        splits = {"test": dataset.open_test(access), "validation": dataset.validation}
        found = measure(
            run.spec,
            splits,
            dataset=dataset,
            storage=run.storage,
            checkpoint=checkpoint,
            world=World(rank=0, size=1, device=_device()),
            share_done=share_done,
            stop_requested=watch.stop_requested,
        )
        return None if found is None else {split: metrics.to_dict() for split, metrics in found.items()}

    try:
        output = run.unless_stopped(work)
    except _TakesLongError:
        return None
    if output is None:
        raise StoppedError
    return output


def takes_long(share: float, elapsed_s: float) -> bool:
    """Whether the rest will take longer than a group's start is worth, if so many seconds were spent on this share."""
    return elapsed_s >= LOOK_S and elapsed_s / share - elapsed_s > PATIENCE_S


class _TakesLongError(Exception):
    """This process gives up on evaluating."""


def _device() -> torch.device:
    import torch

    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _reuse(run: Run, output: Output, root: str | None) -> Output | None:
    return output


STAGE = Stage(
    name="evaluate",
    summary="measure it on validation and test data",
    inputs=("train",),
    version=4,
    depends_on=_depends_on,
    run=_run,
    reuse=_reuse,
)
