"""Evaluation: the best checkpoint on validation data and, once, on test data."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from scaling_training.ledger import Output
from scaling_training.stages.base import Inputs, Run, Stage
from scaling_training.stages.train import best_checkpoint
from scaling_training.train import preload


def _depends_on(run: Run) -> Mapping[str, Any]:
    return {"data": run.data_fingerprint}


def _run(run: Run, inputs: Inputs) -> Output:
    from scaling_training.data import TestAccess
    from scaling_training.evaluate import evaluate

    preload.wait(preload.METRICS_MODULES)
    checkpoint = best_checkpoint(inputs["train"])
    # Opened once: to list a data set's files, or to call the user's function, may take long.
    on = functools.partial(evaluate, run.spec, storage=run.storage, checkpoint=checkpoint, dataset=run.dataset)
    test = run.unless_stopped(lambda: on(split="test", access=TestAccess("evaluate")))
    validation = run.unless_stopped(lambda: on(split="validation"))
    return {"checkpoint": checkpoint.to_dict(), "test": test.to_dict(), "validation": validation.to_dict()}


def _reuse(run: Run, output: Output, root: str | None) -> Output | None:
    return output


STAGE = Stage(
    name="evaluate",
    summary="measure it on validation and test data",
    inputs=("train",),
    version=3,
    depends_on=_depends_on,
    run=_run,
    reuse=_reuse,
)
