"""What a feed is asked for, and what has to be read for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling_training.data.mix import Pairs


@dataclass(frozen=True, slots=True)
class Request:
    """The samples of a batch. Indices count as in `scaling_training.data.order`."""

    epoch: int
    indices: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Reading:
    """What has to be read for a request."""

    request: Request
    pairs: Pairs | None
    samples: NDArray[np.int64]  # into the split
    crops: NDArray[np.float64] | None
