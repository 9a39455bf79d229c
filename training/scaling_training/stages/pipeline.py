"""Working through the stages: each is looked up in the ledger first and run only when it is not done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scaling_api.redaction import redacted
from scaling_training.clock import utc
from scaling_training.engine.run import StoppedError
from scaling_training.ledger import Ledger, Output, Record, SupersededError, digest
from scaling_training.progress import ProgressModel
from scaling_training.stages.base import Run, Stage


def run_stages(stages: Sequence[Stage], run: Run, ledger: Ledger, progress: ProgressModel) -> dict[str, Record]:
    """The records of all stages by name.

    Raises StoppedError between two stages after a stop, SupersededError when a later attempt has begun, and whatever a
    stage raises, after noting its failure in the progress and the ledger.
    """
    records: dict[str, Record] = {}
    seals: dict[str, str] = {}
    for stage in stages:
        if run.watch.stop_requested():
            raise StoppedError
        key = stage_digest(stage, run, {name: seals[name] for name in stage.inputs})
        record = _reused(stage, run, ledger, key) or _run(stage, run, ledger, key, records, progress)
        if record.state == "Reused":
            ledger.write(record)
            progress.stage_ended(stage.name, "Reused", started_at=record.started_at, finished_at=record.finished_at)
        records[stage.name] = record
        seals[stage.name] = digest({"digest": key, "content": stage.seal(run, record.output)})
    return records


def stage_digest(stage: Stage, run: Run, inputs: Mapping[str, str]) -> str:
    """The digest of all that the stage's output depends on; ``inputs`` are the seals of what it takes, by stage."""
    return digest(
        {
            "stage": stage.name,
            "version": stage.version,
            "inputs": dict(inputs),
            "dependsOn": dict(stage.depends_on(run)),
        }
    )


def _reused(stage: Stage, run: Run, ledger: Ledger, key: str) -> Record | None:
    for found in ledger.finished(stage.name, key):
        output = stage.reuse(run, found.output, found.root)
        if output is not None:
            return Record(stage.name, key, "Reused", found.started_at, found.finished_at, output, root=found.root)
    return None


def _run(
    stage: Stage, run: Run, ledger: Ledger, key: str, records: dict[str, Record], progress: ProgressModel
) -> Record:
    progress.stage_started(stage.name)
    started_at = utc()
    inputs: dict[str, Output] = {name: records[name].output for name in stage.inputs}
    try:
        output = stage.run(run, inputs)
    except (StoppedError, SupersededError):
        raise
    except Exception as error:
        message = redacted(str(error)) or type(error).__name__
        progress.stage_ended(stage.name, "Failed", message=message)
        ledger.write(Record(stage.name, key, "Failed", started_at, utc(), {}, message=message))
        raise
    record = Record(stage.name, key, "Succeeded", started_at, utc(), output)
    ledger.write(record)
    progress.stage_ended(stage.name, "Succeeded")
    return record
