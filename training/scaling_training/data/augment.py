"""Random affine changes of training images: rotation, shift, zoom and shear in one resampling.

What is drawn for a sample is a function of (seed, epoch, index in the training split), so it is the same
whichever process takes the sample, in whatever batch, before or after a resume. The draws of an epoch are
made at once (five numbers a sample); the mathematics is numpy on plain numbers, torch only resamples.

A point p of the image, in pixels from its centre, goes to ``zoom * rotate(shear(p)) + shift``; shear is
along x. Resampling needs the inverse: where in the old image each new pixel comes from. What lies outside
is 0, the background of the raw values; so this comes before normalisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaling_api.spec import Augmentation
from scaling_training.data.random import Purpose, uniform

if TYPE_CHECKING:
    import torch

_DRAWS = 5  # rotation, shift x, shift y, zoom, shear


def is_identity(spec: Augmentation) -> bool:
    """Whether nothing is ever changed."""
    return not any((spec.rotation, spec.shift, spec.zoom, spec.shear))


def inverse_affine(spec: Augmentation, draws: NDArray[np.float64], *, height: int, width: int) -> NDArray[np.float64]:
    """Per row of ``draws`` (in [0, 1)) the 2x3 matrix from new to old coordinates, both scaled to -1..1."""
    signed = 2.0 * draws - 1.0
    angle = np.radians(spec.rotation) * signed[:, 0]
    shift_x, shift_y = 2.0 * spec.shift * signed[:, 1], 2.0 * spec.shift * signed[:, 2]
    zoom = 1.0 + spec.zoom * signed[:, 3]
    slope = np.tan(np.radians(spec.shear) * signed[:, 4])
    cos, sin = np.cos(angle), np.sin(angle)
    # inverse of zoom * [[cos, -sin], [sin, cos]] @ [[1, slope], [0, 1]], in pixels
    matrix = np.empty((len(draws), 2, 3))
    matrix[:, 0, 0] = (cos + slope * sin) / zoom
    matrix[:, 0, 1] = (sin - slope * cos) / zoom
    matrix[:, 1, 0] = -sin / zoom
    matrix[:, 1, 1] = cos / zoom
    # The two axes are scaled to -1..1 each by its own length.
    matrix[:, 0, 1] *= height / width
    matrix[:, 1, 0] *= width / height
    matrix[:, 0, 2] = -(matrix[:, 0, 0] * shift_x + matrix[:, 0, 1] * shift_y)
    matrix[:, 1, 2] = -(matrix[:, 1, 0] * shift_x + matrix[:, 1, 1] * shift_y)
    return matrix


class AffineAugmentation:
    """The changes of one run's training images."""

    def __init__(self, spec: Augmentation, *, seed: int, samples: int) -> None:
        self._spec = spec
        self._seed = seed
        self._samples = samples
        self._epoch = -1
        self._draws = np.empty((0, _DRAWS))

    def matrices(self, epoch: int, indices: NDArray[np.int64], *, height: int, width: int) -> NDArray[np.float64]:
        """The matrices of these samples in this epoch."""
        if epoch != self._epoch:
            drawn = uniform(self._seed, Purpose.AUGMENTATION, epoch, self._samples * _DRAWS)
            self._draws = drawn.reshape(self._samples, _DRAWS)
            self._epoch = epoch
        return inverse_affine(self._spec, self._draws[indices], height=height, width=width)

    def apply(self, images: torch.Tensor, epoch: int, indices: NDArray[np.int64]) -> torch.Tensor:
        """The changed images (sample, channel, height, width; raw values as floats)."""
        import torch
        from torch.nn import functional

        height, width = images.shape[-2:]
        matrices = self.matrices(epoch, indices, height=height, width=width)
        theta = torch.from_numpy(matrices).to(images.device, images.dtype)
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
