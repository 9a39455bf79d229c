"""When training has gone on long enough, and which checkpoint is the best: pure functions of the metrics.

Both ask the same metric. Nothing is stored: the answer follows from the rows of the curves, which every
checkpoint holds and which are equal on all ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scaling_api.metrics import MODES
from scaling_api.optim import EarlyStopping
from scaling_training.errors import UserError
from scaling_training.evaluate.metrics import Objective, validation_key
from scaling_training.train.history import Row


def objective_of(spec: EarlyStopping | None, default: Objective) -> Objective:
    """The metric that the user chose, else the task's.

    Which way it gets better follows from its name, where task or library know it. UserError when the user says the
    contrary, or does not say it of a metric that nobody knows.
    """
    if spec is None or spec.metric is None:
        return default
    known = default.mode if spec.metric == default.metric else MODES.get(spec.metric)
    if known is None and spec.mode is None:
        raise UserError(
            f"training.earlyStopping.mode is missing: say whether {spec.metric} should rise (max) or fall (min)"
        )
    if known is not None and spec.mode not in (None, known):
        raise UserError(
            f"training.earlyStopping.mode {spec.mode}: {spec.metric} gets better as it "
            f"{'rises' if known == 'max' else 'falls'}; write {known}, or leave mode out"
        )
    mode = known or spec.mode
    assert mode is not None, "one of them is"
    return Objective(spec.metric, mode)


def better(metrics: Mapping[str, float], best: Mapping[str, float], objective: Objective) -> bool:
    """Whether these metrics beat the best so far (empty: none yet).

    Among equals, which a small validation split often has, the lower loss wins. A value that is infinite or no number
    never wins, nor does it keep anything from winning. UserError when there is no such metric.
    """
    value = _value(metrics, objective.metric, objective.metric)
    if not math.isfinite(value):
        return False
    if not best or not math.isfinite(best[objective.metric]):
        return True
    gain = objective.improvement(value, best[objective.metric])
    return gain > 0 or (gain == 0 and metrics["loss"] < best["loss"])


def should_stop(rows: Sequence[Row], spec: EarlyStopping | None, default: Objective) -> str | None:
    """The reason to stop after these epochs as a sentence, or None.

    An epoch improves when its metric beats the best so far by more than minDelta; training stops when the last
    ``patience`` validated epochs all brought none. A value that is infinite or no number is no improvement. UserError
    when the validation has no such metric.
    """
    if spec is None:
        return None
    objective = objective_of(spec, default)
    key = validation_key(objective.metric)
    best, best_epoch, waited = 0.0, 0, 0
    for row in rows:
        if validation_key("loss") not in row:
            continue  # an epoch without a validation
        value = _value(row, key, objective.metric)
        first = best_epoch == 0
        if math.isfinite(value) and (first or objective.improvement(value, best) > spec.min_delta):
            best, best_epoch, waited = float(value), int(row["epoch"]), 0
        else:
            waited += 1
    if waited < spec.patience:
        return None
    if best_epoch == 0:
        return f"{key} has been no finite number in {waited} epochs"
    return (
        f"{key} has not improved by more than {spec.min_delta:g} for {waited} epochs; "
        f"its best was {best:.6g} in epoch {best_epoch}"
    )


def _value(metrics: Mapping[str, float | int], key: str, metric: str) -> float:
    try:
        return metrics[key]
    except KeyError:
        names = (_bare(name) for name in metrics if key == metric or name.startswith("val"))
        raise UserError(
            f"training.earlyStopping.metric {metric} is not a metric of this validation; "
            f"there are {', '.join(sorted(names))}"
        ) from None


def _bare(name: str) -> str:
    bare = name.removeprefix("val")
    return bare[:1].lower() + bare[1:]
