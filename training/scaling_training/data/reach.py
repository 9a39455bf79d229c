"""Samples whose numbers are so far from 0 that a loss becomes infinite, whatever the learning rate is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling_training.data.samples import Samples

# Networks are made for numbers of about mean 0 and deviation 1.
FAR = 1000.0


def far_out(samples: Samples, indices: NDArray[np.int64]) -> str | None:
    """Which of these samples (as `data.order` counts them) lies furthest out, in words; None when none lies far.

    Pixels never do. What cannot be read is passed over.
    """
    some = np.unique(indices % len(samples))
    targets = samples.targets[some]
    inputs = None if samples.max_value is not None else samples.read(some).values
    for what, values in (("inputs", inputs), ("targets", targets)):
        if values is None or values.dtype.kind != "f":
            continue
        reach = _reach(values)
        worst = int(reach.argmax())
        if reach[worst] > FAR:
            return f"the {what} of {samples.name_of(int(some[worst]))} reach {reach[worst]:g}"
    return None


def _reach(values: NDArray[Any]) -> NDArray[np.float64]:
    reach: NDArray[np.float64] = np.abs(values.astype(np.float64).reshape(len(values), -1)).max(axis=1)
    return reach
