"""Random crops: of a padded image, or of a part that is then resized.

The random-resized crop is Szegedy et al. 2015's (area uniform from the smallest to 1, logarithm of the aspect
ratio uniform between 3/4 and 4/3) with one difference: a part that does not fit is cut to the image instead of
being drawn again, so that a sample takes a fixed number of draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

DRAWS = 4  # area, aspect ratio, top, left; a padded crop takes the last two
_LOG_RATIO = float(np.log(4 / 3))


def boxes(draws: NDArray[np.float64], *, area: float, height: float, width: float) -> NDArray[np.float64]:
    """Per row of draws the part to keep, in pixels: top, left, height, width."""
    part = (area + (1.0 - area) * draws[:, 0]) * height * width
    ratio = np.exp(_LOG_RATIO * (2.0 * draws[:, 1] - 1.0))
    tall = np.minimum(np.sqrt(part / ratio), height)
    wide = np.minimum(np.sqrt(part * ratio), width)
    return np.stack(((height - tall) * draws[:, 2], (width - wide) * draws[:, 3], tall, wide), axis=1)


def crop_matrices(draws: NDArray[np.float64], *, area: float, height: int, width: int) -> NDArray[np.float64]:
    """The crop as 3x3 matrices from new to old coordinates, both scaled to -1..1."""
    top, left, tall, wide = boxes(draws, area=area, height=height, width=width).T
    matrices = np.zeros((len(draws), 3, 3))
    matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 2, 2] = wide / width, tall / height, 1.0
    matrices[:, 0, 2] = (2.0 * left + wide) / width - 1.0
    matrices[:, 1, 2] = (2.0 * top + tall) / height - 1.0
    return matrices


def padded_crop(images: torch.Tensor, draws: NDArray[np.float64], *, padding: int, fill: str) -> torch.Tensor:
    """Images of the old size, moved by whole pixels of at most ``padding``; new edges are 0 or the nearest pixel."""
    import torch
    from torch.nn import functional

    count, _, height, width = images.shape
    offsets = torch.from_numpy((draws[:, 2:] * (2 * padding + 1)).astype(np.int64)).to(images.device)
    rows = offsets[:, :1] + torch.arange(height, device=images.device)
    columns = offsets[:, 1:] + torch.arange(width, device=images.device)
    mode = "replicate" if fill == "nearest" else "constant"
    padded = functional.pad(images, (padding, padding, padding, padding), mode=mode)
    # Channels last while indexing, because the two index tensors frame them.
    which = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
