"""From which epoch on a run overfits: a pure function of its validation losses.

Definition, for validation losses l_1 .. l_n, one per epoch:

1. Smoothed losses s: the running median of 3, which a single spike does not move, then the running mean of 3
   (Tukey 1977). At the ends the window is the 3, respectively 2, nearest epochs.
2. The onset is the epoch m of the lowest s (the first of equals).
3. It is confirmed when each of the last 3 smoothed losses, all of them after m, is above s_m by more than
   margin = max(2 % of abs(s_m), 3 sigma). Otherwise there is no overfitting: the loss still falls, has levelled
   off, rose for too short a time, or came back down.

sigma, the noise from epoch to epoch, is estimated from the second differences, which a smooth curve hardly has
and which have the variance 6 sigma^2 when noise is independent: sigma = 1.4826 median|d| / sqrt(6), the
median for being robust against spikes. With 3 sigma a level loss with independent noise is taken for
overfitting in about 1 of 100 runs. The smoothing can move the onset by an epoch where fall and rise differ much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median

Row = Mapping[str, float | int]

CONFIRMING_EPOCHS = 3
MIN_RISE = 0.02
NOISE_FACTOR = 3.0
_WINDOW = 3
# Below, the noise cannot be told from the curve.
_MIN_EPOCHS = 5


def overfitting_onset(rows: Sequence[Row]) -> int | None:
    """The epoch of the onset by the definition above, None when there is none.

    Rows without a finite ``valLoss`` are left out, and None is the answer for less than 5 with it.
    """
    validated = [row for row in rows if math.isfinite(row.get("valLoss", math.nan))]
    if len(validated) < _MIN_EPOCHS:
        return None
    losses = [float(row["valLoss"]) for row in validated]
    smoothed = smooth(losses)
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
    after = smoothed[lowest + 1 :][-CONFIRMING_EPOCHS:]
    margin = max(MIN_RISE * abs(smoothed[lowest]), NOISE_FACTOR * noise(losses))
    if len(after) < CONFIRMING_EPOCHS or min(after) <= smoothed[lowest] + margin:
        return None
    return int(validated[lowest]["epoch"])


def smooth(losses: Sequence[float]) -> list[float]:
    """The running median of 3, then the running mean of 3; as many values as losses."""
    last = len(losses) - 1
    medians = [median(losses[max(0, min(at - 1, last - 2)) :][:_WINDOW]) for at in range(len(losses))]
    return [fmean(medians[max(0, at - 1) : at + 2]) for at in range(len(losses))]


def noise(losses: Sequence[float]) -> float:
    """The standard deviation of the noise from epoch to epoch; needs 3 losses."""
    bends = [abs(losses[at - 1] - 2 * losses[at] + losses[at + 1]) for at in range(1, len(losses) - 1)]
    return 1.4826 * median(bends) / math.sqrt(6.0)
