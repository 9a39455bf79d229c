"""Analysis: a look at the data before anything costly starts."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from scaling_training.errors import UserError
from scaling_training.ledger import Output
from scaling_training.sources import without_secrets
from scaling_training.stages.base import Inputs, Run, Stage

ANALYSIS_JSON = "analysis.json"

log = logging.getLogger(__name__)


def _depends_on(run: Run) -> Mapping[str, Any]:
    section = without_secrets(run.spec.dataset.to_json_dict())
    return {"data": run.data_fingerprint, "dataset": {name: section[name] for name in section if name != "loader"}}


def _run(run: Run, inputs: Inputs) -> Output:
    from scaling_training.data.analysis import analyse

    dataset = run.dataset
    run.watch.note(dataset.found)
    analysis = run.unless_stopped(lambda: analyse(dataset))
    output: Output = {"analysis": ANALYSIS_JSON, "found": analysis.to_json()}
    _write(run, output)
    for sentence in analysis.warnings:
        log.warning("The data: %s", sentence)
    unreadable = analysis.unreadable
    if unreadable.count and run.spec.dataset.unreadable == "fail":
        name, reason = unreadable.files[0]
        raise UserError(
            f"dataset: {unreadable.count} of {unreadable.checked} samples looked at cannot be read, such as {name} "
            f"({reason}); mend or remove those that {ANALYSIS_JSON} names, or set dataset.unreadable to skip"
        )
    return output


def _write(run: Run, output: Output) -> None:
    run.publish(ANALYSIS_JSON, json.dumps(output["found"], indent=1, sort_keys=True).encode())


def _reuse(run: Run, output: Output, root: str | None) -> Output | None:
    run.watch.note(run.dataset.found)
    # Whatever lies there may be of other work, after an edit.
    _write(run, output)
    return output


STAGE = Stage(
    name="analyze",
    summary="look at the data",
    inputs=(),
    version=2,
    depends_on=_depends_on,
    run=_run,
    reuse=_reuse,
)
