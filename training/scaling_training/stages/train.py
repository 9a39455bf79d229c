"""Training: from the data to the best checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from scaling_training.checkpoint import CheckpointRef, Checkpoints
from scaling_training.checkpoint.key import checkpoint_key
from scaling_training.checkpoint.manifest import MANIFEST
from scaling_training.engine.worker import WorkerTask, outcome_to_dict
from scaling_training.ledger import Output
from scaling_training.stages.base import Inputs, Run, Stage
from scaling_training.storage import Storage
from scaling_training.train.check import check_training


def best_checkpoint(output: Output) -> CheckpointRef:
    """The checkpoint that the later stages take: the best one, else the last."""
    return CheckpointRef.from_dict(output["best"] or output["checkpoint"])


def _depends_on(run: Run) -> Mapping[str, Any]:
    return {"key": _key(run)}


def _key(run: Run) -> str:
    return checkpoint_key(run.spec, run.data_fingerprint)


def _run(run: Run, inputs: Inputs) -> Output:
    check_training(run.spec, run.dataset)
    task = WorkerTask(
        spec=run.spec.to_json_dict(),
        storage_root=run.storage.root,
        attempt=run.attempt,
        # Files of another run are read and verified.
        resume=run.unless_stopped(lambda: _earlier_checkpoint(run)),
    )
    output: Output = json.loads(json.dumps(outcome_to_dict(run.engine(task, run.watch))))
    return {**output, "historyRoot": run.storage.root}


def _earlier_checkpoint(run: Run) -> CheckpointRef | None:
    """The newest checkpoint of the run that resumeFrom names, unless this run has some of its own."""
    if run.previous is None or _newest(run.storage, _key(run)) is not None:
        return None
    found = _newest(run.previous, _key(run))
    return replace(found, root=found.root or run.previous.root) if found else None


def _newest(storage: Storage, key: str) -> CheckpointRef | None:
    for attempt in reversed(_attempts(storage)):
        found = Checkpoints(storage, attempt=attempt, key=key).latest_committed()
        if found is not None:
            return found
    return None


def _attempts(storage: Storage) -> list[int]:
    folders = storage.names("checkpoints")
    return sorted(int(name.removeprefix("attempt-")) for name in folders if name.removeprefix("attempt-").isdigit())


def _reuse(run: Run, output: Output, root: str | None) -> Output | None:
    refs = {name: CheckpointRef.from_dict(output[name]) for name in ("checkpoint", "best") if output[name]}
    if root is not None:
        refs = {name: replace(ref, root=ref.root or root) for name, ref in refs.items()}
    best = refs.get("best", refs["checkpoint"])
    storage = Storage(best.root) if best.root is not None else run.storage
    if not storage.exists(f"{best.folder}/{MANIFEST}"):
        return None
    return {**output, **{name: ref.to_dict() for name, ref in refs.items()}}


STAGE = Stage(
    name="train",
    summary="train the model",
    inputs=(),
    version=1,
    depends_on=_depends_on,
    run=_run,
    reuse=_reuse,
)
