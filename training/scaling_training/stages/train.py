"""Training: from the data to the best checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from scaling_training.checkpoint import CheckpointRef, DamagedError, open_checkpoint
from scaling_training.checkpoint.catalog import newest_committed, newest_key, usable
from scaling_training.checkpoint.key import difference, key_of, note_work, noted_work
from scaling_training.engine.worker import Training, WorkerTask
from scaling_training.errors import UserError
from scaling_training.ledger import Output
from scaling_training.stages.base import Inputs, Run, Stage
from scaling_training.storage import Storage
from scaling_training.train.check import check_training
from scaling_training.train.types import outcome_to_dict

log = logging.getLogger(__name__)


def best_checkpoint(output: Output) -> CheckpointRef:
    """The checkpoint that the later stages take: the best one, else the last."""
    return CheckpointRef.from_dict(output["best"] or output["checkpoint"])


def _depends_on(run: Run) -> Mapping[str, Any]:
    return {"key": key_of(run.work)}


def _run(run: Run, inputs: Inputs) -> Output:
    check_training(run.spec, run.dataset, run.watch.note)
    resume = run.unless_stopped(lambda: _earlier_checkpoint(run, run.work))
    note_work(run.storage, run.work)
    task = WorkerTask(
        spec=run.spec.to_json_dict(),
        storage_root=run.storage.root,
        attempt=run.attempt,
        job=Training(key=key_of(run.work), resume=resume),
    )
    output: Output = json.loads(json.dumps(outcome_to_dict(run.engine(task, run.watch))))
    return output


def _earlier_checkpoint(run: Run, work: Mapping[str, Any]) -> CheckpointRef | None:
    """The newest checkpoint of the run that resumeFrom names; checkpoints of this run are preferred to it.

    UserError when that run has checkpoints but none that fits or can be read, and this one has none: whoever names it
    does not want to train from the start. Only manifests are read: the training processes verify what they load.
    """
    if run.previous is None:
        key = newest_key(run.storage)
        if key is not None and newest_committed(run.storage, key_of(work)) is None:
            log.warning("Training starts anew: %s", _misfit(run.storage, key, work))
        return None
    try:
        found = newest_committed(run.previous, key_of(work))
    except UserError as error:
        # What became of that run is no matter to one that has gone on from it.
        if newest_committed(run.storage, key_of(work)) is None:
            raise
        log.warning("%s; training goes on from this run's own checkpoints", error)
        return None
    if found is not None:
        return replace(found, root=run.previous.root)
    if newest_committed(run.storage, key_of(work)) is not None:
        return None
    key = newest_key(run.previous)
    if key is None:
        log.warning("Training starts anew: %s, which resumeFrom names, has no checkpoint", run.previous.url())
        return None
    raise UserError(
        f"spec.storage.resumeFrom: {_misfit(run.previous, key, work)}; make these alike to go on from there, or leave "
        "resumeFrom out to train from the start"
    )


def _misfit(storage: Storage, key: str, work: Mapping[str, Any]) -> str:
    """Why no checkpoint there can be gone on from, in words; ``key`` is the newest one's."""
    there = noted_work(storage, key)
    what = difference(there, work) if there else "the model, dataset or training section, or what they name"
    return f"the checkpoints in {storage.url()} are of other work: {what}{'' if there else ' has changed'}"


def _reuse(run: Run, output: Output, root: str | None) -> Output | None:
    refs = _refs(output)
    if root is not None:
        refs = {name: replace(ref, root=ref.root or root) for name, ref in refs.items()}
    try:
        for ref in refs.values():
            open_checkpoint(run.storage, ref)
    except DamagedError:
        # Training goes on from what is left.
        return None
    return {**output, **{name: ref.to_dict() for name, ref in refs.items()}}


def _seal(run: Run, output: Output) -> Mapping[str, str]:
    seals = {}
    for name, ref in _refs(output).items():
        with usable(ref):
            seals[name] = open_checkpoint(run.storage, ref).manifest.seal
    return seals


def _refs(output: Output) -> dict[str, CheckpointRef]:
    return {name: CheckpointRef.from_dict(output[name]) for name in ("checkpoint", "best") if output[name]}


STAGE = Stage(
    name="train",
    summary="train the model",
    inputs=(),
    version=1,
    depends_on=_depends_on,
    run=_run,
    reuse=_reuse,
    seal=_seal,
)
