"""Random changes of training images, on the device, a whole batch at a time.

What is drawn for a sample is a function of (seed, epoch, sample), so it is the same whichever process takes the
sample, in whatever batch, before or after a resume. The mathematics is numpy on plain numbers, torch only
resamples. torchvision's transforms give one draw to all images of a batch, so its kernels do not fit here.

Rotation, shift, zoom, shear and a random-resized crop are one resampling: a point p of the image, in pixels from
its centre, goes to ``zoom * rotate(shear(p)) + shift``; shear is along x. Resampling needs the inverse: where in
the old image each new pixel comes from. What lies outside is 0, the background of the raw values, or the nearest
pixel; so this comes before normalisation. Flips and the padded crop move whole pixels and come after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaling_api.spec import Augmentation
from scaling_training.data import crops
from scaling_training.data.random import Purpose, SampleWords, fractions

if TYPE_CHECKING:
    import torch

_DRAWS = 5  # rotation, shift x, shift y, zoom, shear


def is_affine(spec: Augmentation) -> bool:
    """Whether rotation, shift, zoom or shear is asked for."""
    return any((spec.rotation, spec.shift, spec.zoom, spec.shear))


def is_identity(spec: Augmentation) -> bool:
    """Whether no image is ever changed (mixing of two images is not a change of one)."""
    return not (is_affine(spec) or spec.horizontal_flip or spec.vertical_flip or spec.crop is not None)


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


class ImageAugmentation:
    """The changes of one run's training images.

    ``crops_area`` False leaves the random-resized crop to the reader, which cuts it from the full picture.
    """

    def __init__(self, spec: Augmentation, *, seed: int, samples: int, crops_area: bool = True) -> None:
        crop = spec.crop
        self._spec = spec
        area = crop.area if crop is not None else None
        self._area = area if crops_area else None
        self.reader_crops = area is not None and not crops_area
        self._padding = crop.padding if crop is not None else None
        self._affine = is_affine(spec)
        self._flips = bool(spec.horizontal_flip or spec.vertical_flip)
        self._affine_words = SampleWords(seed, Purpose.AUGMENTATION, samples=samples, width=_DRAWS)
        self._flip_words = SampleWords(seed, Purpose.FLIP, samples=samples, width=2)
        self._crop_words = SampleWords(seed, Purpose.CROP, samples=samples, width=crops.DRAWS)

    def matrices(self, epoch: int, indices: NDArray[np.int64], *, height: int, width: int) -> NDArray[np.float64]:
        """The matrices of these samples' rotation, shift, zoom and shear in this epoch."""
        draws = fractions(self._affine_words.of(epoch, indices))
        return inverse_affine(self._spec, draws, height=height, width=width)

    def crop_draws(self, epoch: int, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """The draws of these samples' crop in this epoch: [index, 4]."""
        return fractions(self._crop_words.of(epoch, indices))

    def apply(self, images: torch.Tensor, epoch: int, indices: NDArray[np.int64]) -> torch.Tensor:
        """The changed images (sample, channel, height, width; raw values as floats)."""
        if self._affine or self._area is not None:
            images = self._resampled(images, epoch, indices)
        if self._flips:
            images = self._flipped(images, epoch, indices)
        if self._padding is not None:
            draws = self.crop_draws(epoch, indices)
            images = crops.padded_crop(images, draws, padding=self._padding, fill=self._spec.fill)
        return images

    def _resampled(self, images: torch.Tensor, epoch: int, indices: NDArray[np.int64]) -> torch.Tensor:
        import torch
        from torch.nn import functional

        height, width = images.shape[-2:]
        matrices = self.matrices(epoch, indices, height=height, width=width)
        if self._area is not None:
            draws = self.crop_draws(epoch, indices)
            matrices = matrices @ crops.crop_matrices(draws, area=self._area, height=height, width=width)
        theta = torch.from_numpy(matrices).to(images.device, images.dtype)
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        outside = "border" if self._spec.fill == "nearest" else "zeros"
        return functional.grid_sample(images, grid, mode="bilinear", padding_mode=outside, align_corners=False)

    def _flipped(self, images: torch.Tensor, epoch: int, indices: NDArray[np.int64]) -> torch.Tensor:
        import torch

        draws = fractions(self._flip_words.of(epoch, indices))
        for column, (chance, axis) in enumerate(((self._spec.horizontal_flip, -1), (self._spec.vertical_flip, -2))):
            if chance:
                chosen = torch.from_numpy(draws[:, column] < chance).to(images.device)[:, None, None, None]
                images = torch.where(chosen, images.flip(axis), images)
        return images
