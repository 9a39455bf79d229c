"""The report: the model, its curves and its metrics, in the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from scaling_training.checkpoint import CheckpointRef
from scaling_training.evaluate import overfitting_onset
from scaling_training.files import digest_of
from scaling_training.ledger import Output
from scaling_training.report.artifact import write_model
from scaling_training.report.curves import curves_json, curves_png
from scaling_training.stages.analyze import ANALYSIS_JSON
from scaling_training.stages.base import Inputs, Run, Stage
from scaling_training.stages.train import best_checkpoint
from scaling_training.train.history import Row, parse_rows

MODEL_FOLDER = "model"
CURVES_JSON = "curves.json"
CURVES_PNG = "curves.png"
METRICS_JSON = "metrics.json"


def _depends_on(run: Run) -> Mapping[str, Any]:
    # What is made here lies in this run's folder, so another run's report is of no use.
    return {"job": run.job, "root": run.storage.root}


def _run(run: Run, inputs: Inputs) -> Output:
    from scaling_training.checkpoint.state import HISTORY
    from scaling_training.checkpoint.weights import checkpoint_file, weights_file

    trained, evaluated = inputs["train"], inputs["evaluate"]
    files: dict[str, str] = {}

    def publish(name: str, data: bytes) -> None:
        run.publish(name, data)
        files[name] = digest_of(data)

    # As the last checkpoint holds them, of whose content this stage's key speaks.
    rows = parse_rows(checkpoint_file(run.storage, CheckpointRef.from_dict(trained["checkpoint"]), HISTORY))
    best = best_checkpoint(trained)
    weights = weights_file(run.storage, best)
    write_model(lambda name, data: publish(f"{MODEL_FOLDER}/{name}", data), weights, run.spec, run.dataset)
    publish(CURVES_JSON, curves_json(rows))
    onset = overfitting_onset(rows)
    objective = evaluated["objective"]
    picture = curves_png(
        rows,
        title=run.job,
        objective=objective["metric"],
        best_epoch=_epoch_of(best, rows),
        onset_epoch=onset,
        test_value=evaluated["test"].get(objective["metric"]),
    )
    publish(CURVES_PNG, picture)
    splits = {split: evaluated[split] for split in ("test", "validation")}
    metrics = {"objective": objective, **splits, "overfitting": {"onsetEpoch": onset}}
    publish(METRICS_JSON, json.dumps(metrics, indent=1).encode())
    return {
        "objective": objective,
        # The numbers alone; how many samples, and the tables, are in the file.
        "metrics": {
            split: {name: value for name, value in found.items() if isinstance(value, float)}
            for split, found in splits.items()
        },
        "artifacts": {
            "model": MODEL_FOLDER,
            "curves": CURVES_PNG,
            "curvesData": CURVES_JSON,
            "metrics": METRICS_JSON,
            "analysis": ANALYSIS_JSON,
        },
        "skipped": {
            "training": rows[-1].get("skippedSamples", 0) if rows else 0,
            **{split: found["skipped"] for split, found in splits.items()},
        },
        "files": files,
    }


def _epoch_of(checkpoint: CheckpointRef, rows: list[Row]) -> int | None:
    return next((int(row["epoch"]) for row in rows if row["step"] == checkpoint.step), None)


def _reuse(run: Run, output: Output, root: str | None) -> Output | None:
    """Only while all is as it was made: after an edit, the report of other work lies in the same places."""

    def unchanged(name: str, digest: str) -> bool:
        try:
            return digest_of(run.storage.read(name)) == digest
        except FileNotFoundError:
            return False

    return output if all(unchanged(name, digest) for name, digest in output["files"].items()) else None


STAGE = Stage(
    name="report",
    summary="write model, curves and metrics",
    inputs=("analyze", "train", "evaluate"),
    version=6,
    depends_on=_depends_on,
    run=_run,
    reuse=_reuse,
)
