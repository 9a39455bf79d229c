"""Folders of small pictures for the tests of data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from scaling_api.spec import DatasetSpec


def picture(seed: int, *, height: int = 12, width: int = 16, channels: int = 3) -> Image.Image:
    """Smooth noise, so that pictures differ to any hash."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, channels), dtype=np.uint8)
    image = Image.fromarray(coarse if channels == 3 else coarse[..., 0])
    return image.resize((width, height), Image.Resampling.BICUBIC)


def fill(folder: Path, counts: dict[str, int], *, seed: int = 0, suffix: str = "png", **shape: int) -> None:
    """So many pictures of each class, at ``class/000.png``."""
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            made = picture(seed * 100_000 + number * 1000 + index, **shape)
            made.save(folder / name / f"{index:03d}.{suffix}")


def folder_spec(folder: Path, **fields: object) -> DatasetSpec:
    """A section for the folder; images of 8 pixels, read without worker processes."""
    plain = {"name": "image-folder", "uri": str(folder), "imageSize": 8, "loader": {"workers": 0}}
    return DatasetSpec.model_validate({**plain, **fields})
