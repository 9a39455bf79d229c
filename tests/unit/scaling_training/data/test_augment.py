from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from scaling_api.spec import Augmentation, Crop
from scaling_training.data.augment import ImageAugmentation, inverse_affine, is_identity
from scaling_training.data.crops import boxes

EVERYTHING = Augmentation(rotation=15, shift=0.2, zoom=0.2, shear=10)


def images(count: int, side: int = 12) -> torch.Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0))


def test_a_sample_looks_the_same_in_whatever_batch_it_comes() -> None:
    augmentation = ImageAugmentation(EVERYTHING, seed=5, samples=40)
    pictures = images(40)
    together = augmentation.apply(pictures, 3, np.arange(40))
    for batch in (np.array([17]), np.array([39, 17, 2]), np.arange(39, -1, -1)):
        alone = ImageAugmentation(EVERYTHING, seed=5, samples=40).apply(pictures[batch], 3, batch)
        torch.testing.assert_close(alone, together[batch], rtol=0, atol=0)


@pytest.mark.parametrize(("seed", "epoch"), [pytest.param(5, 4, id="another epoch"), pytest.param(6, 3, id="seed")])
def test_it_looks_different_in(seed: int, epoch: int) -> None:
    indices = np.arange(4)
    first = ImageAugmentation(EVERYTHING, seed=5, samples=4).apply(images(4), 3, indices)
    second = ImageAugmentation(EVERYTHING, seed=seed, samples=4).apply(images(4), epoch, indices)
    assert all(not torch.equal(first[sample], second[sample]) for sample in range(4))


def test_nothing_asked_is_nothing_changed() -> None:
    assert is_identity(Augmentation())
    assert not is_identity(Augmentation(shear=1))
    unchanged = ImageAugmentation(Augmentation(), seed=0, samples=4).apply(images(4), 0, np.arange(4))
    torch.testing.assert_close(unchanged, images(4))


# Draws of 1 (never drawn, but the limit) ask for the largest change; 0.5 for none.
NONE, MOST = 0.5, 1.0


def resampled(spec: Augmentation, draws: list[float], picture: torch.Tensor) -> torch.Tensor:
    height, width = picture.shape
    matrix = inverse_affine(spec, np.array([draws]), height=height, width=width)
    grid = torch.nn.functional.affine_grid(torch.from_numpy(matrix).float(), [1, 1, height, width], align_corners=False)
    changed = torch.nn.functional.grid_sample(picture[None, None], grid, align_corners=False)
    return changed[0, 0]


def test_a_shift_moves_by_its_fraction_of_each_axis() -> None:
    picture = torch.zeros(10, 20)
    picture[4, 8] = 1.0
    moved = resampled(Augmentation(shift=0.1), [NONE, MOST, MOST, NONE, NONE], picture)
    assert moved.argmax().item() == 5 * 20 + 10


def test_a_quarter_turn_turns_also_an_image_that_is_not_square() -> None:
    picture = torch.zeros(9, 15)
    picture[4, 10] = 1.0  # three right of the centre
    turned = resampled(Augmentation(rotation=90), [MOST, NONE, NONE, NONE, NONE], picture)
    assert turned.argmax().item() == 7 * 15 + 7  # three below it
    assert turned.max().item() == pytest.approx(1.0, abs=1e-5)


def test_zoom_enlarges_about_the_centre() -> None:
    picture = torch.zeros(11, 11)
    picture[5, 7] = 1.0  # two right of the centre
    enlarged = resampled(Augmentation(zoom=0.5), [NONE, NONE, NONE, MOST, NONE], picture)
    assert enlarged.argmax().item() == 5 * 11 + 8  # three right of it


def test_shear_moves_rows_along_x_in_proportion_to_their_height() -> None:
    picture = torch.zeros(11, 11)
    picture[8, 5] = 1.0  # three below the centre
    sheared = resampled(Augmentation(shear=45), [NONE, NONE, NONE, NONE, MOST], picture)
    assert sheared.argmax().item() == 8 * 11 + 8


def everything(spec: Augmentation, pictures: torch.Tensor, *, seed: int = 0) -> torch.Tensor:
    count = len(pictures)
    return ImageAugmentation(spec, seed=seed, samples=count).apply(pictures, 0, np.arange(count))


@pytest.mark.parametrize(("field", "axis"), [("horizontalFlip", -1), ("verticalFlip", -2)])
def test_a_flip_mirrors_whole_pixels_by_its_chance(field: str, axis: int) -> None:
    pictures = images(400)
    always = everything(Augmentation.model_validate({field: 1.0}), pictures)
    torch.testing.assert_close(always, pictures.flip(axis), rtol=0, atol=0)
    half = everything(Augmentation.model_validate({field: 0.5}), pictures)
    flipped = sum(torch.equal(one, other.flip(axis)) for one, other in zip(half, pictures, strict=True))
    kept = sum(torch.equal(one, other) for one, other in zip(half, pictures, strict=True))
    assert (flipped + kept, abs(flipped - 200) < 50) == (400, True)


def test_a_padded_crop_moves_by_whole_pixels_up_to_its_padding() -> None:
    pictures = torch.zeros(600, 1, 7, 7)
    pictures[:, :, 3, 3] = 1.0
    moved = everything(Augmentation(crop=Crop(padding=2)), pictures)
    places = {divmod(int(one.argmax()), 7) for one in moved}
    assert places == {(row, column) for row in range(1, 6) for column in range(1, 6)}
    assert moved.sum().item() == 600


@pytest.mark.parametrize(
    ("fields", "edge"),
    [
        pytest.param({"fill": "constant", "shift": 0.4}, 0.0, id="constant, resampled"),
        pytest.param({"fill": "nearest", "shift": 0.4}, 1.0, id="nearest, resampled"),
        pytest.param({"fill": "constant", "crop": {"padding": 3}}, 0.0, id="constant, padded"),
        pytest.param({"fill": "nearest", "crop": {"padding": 3}}, 1.0, id="nearest, padded"),
    ],
)
def test_what_comes_in_from_outside_is(fields: dict[str, Any], edge: float) -> None:
    changed = everything(Augmentation.model_validate(fields), torch.ones(50, 1, 9, 9))
    assert changed.min().item() == pytest.approx(edge, abs=1e-5)


def test_a_random_resized_crop_is_a_part_of_the_area_and_ratio_asked_for() -> None:
    draws = np.random.default_rng(0).random((2000, 4))
    top, left, tall, wide = boxes(draws, area=0.25, height=40, width=60).T
    assert (np.minimum(top, left) >= 0).all()
    assert (top + tall <= 40 + 1e-9).all()
    assert (left + wide <= 60 + 1e-9).all()
    share = tall * wide / 2400
    assert share.max() <= 1
    free = (tall < 40) & (wide < 60)
    assert share[free].min() >= 0.25
    ratio = (wide / tall)[free]
    assert (ratio.min() >= 0.75 - 1e-9, ratio.max() <= 4 / 3 + 1e-9) == (True, True)


def test_a_crop_in_memory_enlarges_its_part_of_the_picture() -> None:
    spec = Augmentation(crop=Crop(area=0.3))
    augmentation = ImageAugmentation(spec, seed=1, samples=20)
    # Each pixel holds its own column, so the crop is a ramp from its left to its right edge.
    ramp = (torch.arange(32.0) + 0.5).expand(20, 1, 32, 32)
    changed = augmentation.apply(ramp, 0, np.arange(20))
    box = boxes(augmentation.crop_draws(0, np.arange(20)), area=0.3, height=32, width=32)
    for picture, (_, left, _, wide) in zip(changed, box, strict=True):
        expected = left + (np.arange(32) + 0.5) * wide / 32
        np.testing.assert_allclose(picture[0, 16].numpy(), np.clip(expected, 0.5, 31.5), atol=0.51)
