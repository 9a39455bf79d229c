from __future__ import annotations

import numpy as np
import pytest
import torch

from scaling_api.spec import Augmentation
from scaling_training.data.mix import Mixing
from scaling_training.data.order import DataOrder

SAMPLES = 4001  # the last one stays alone
ORDER = DataOrder(seed=2, samples=SAMPLES, batch_size=1)


def mixing(**fields: float) -> Mixing:
    return Mixing(Augmentation.model_validate(fields), seed=2, samples=SAMPLES, classes=SAMPLES, order=ORDER)


def mixed(
    which: Mixing, indices: np.ndarray[tuple[int], np.dtype[np.int64]], side: int = 8
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each sample is an image of its own number and a class of its own, so that shares can be read off."""
    pairs = which.pairs(3, indices)
    numbers = torch.from_numpy(pairs.indices)
    images = numbers.float()[:, None, None, None].expand(-1, 1, side, side)
    return which.apply(images, numbers, pairs, 3)


def test_partners_are_neighbours_in_the_order_and_choose_one_another() -> None:
    order = ORDER.indices(3)
    pairs = mixing(mixup=1.0).pairs(3, order)
    partners = pairs.indices[pairs.partner]
    assert partners[::2][:-1].tolist() == order[1::2].tolist()
    assert partners[1::2].tolist() == order[::2][:-1].tolist()
    assert partners[-1] == order[-1]


def test_a_slice_reads_at_most_the_two_beyond_its_ends() -> None:
    pairs = mixing(mixup=1.0).pairs(3, ORDER.indices(3)[5:12])
    assert sorted(pairs.indices.tolist()) == sorted(ORDER.indices(3)[4:12].tolist())


@pytest.mark.parametrize("fields", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}], ids=str)
def test_targets_have_the_shares_of_the_pixels(fields: dict[str, float]) -> None:
    indices = ORDER.indices(3)[:64]
    which = mixing(**fields)
    images, targets = mixed(which, indices)
    pairs = which.pairs(3, indices)
    own, other = torch.from_numpy(indices), torch.from_numpy(pairs.indices[pairs.partner])
    shares = targets[torch.arange(64), own]

    torch.testing.assert_close(targets.sum(dim=1), torch.ones(64))
    torch.testing.assert_close(images.mean(dim=(1, 2, 3)), shares * own + (1 - shares) * other, rtol=1e-4, atol=1e-2)


def test_mixup_shares_are_beta_distributed() -> None:
    indices = ORDER.indices(3)[:4000]
    _, targets = mixed(mixing(mixup=0.5), indices, side=1)
    shares = targets[torch.arange(4000), torch.from_numpy(indices)]
    assert shares.mean().item() == pytest.approx(0.5, abs=0.02)
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    assert shares.var().item() == pytest.approx(1 / 8, abs=0.01)


def test_cutmix_leaves_whole_pixels_of_one_or_the_other() -> None:
    indices = ORDER.indices(3)[:64]
    which = mixing(cutmix=1.0)
    images, _ = mixed(which, indices)
    pairs = which.pairs(3, indices)
    for image, own, other in zip(images, indices.tolist(), pairs.indices[pairs.partner].tolist(), strict=True):
        assert set(image.unique().tolist()) <= {float(own), float(other)}


def test_with_both_each_sample_takes_one_with_a_chance_of_a_half() -> None:
    indices = ORDER.indices(3)[:400]
    images, _ = mixed(mixing(mixup=1.0, cutmix=1.0), indices)
    uniform = (images.flatten(1).amax(dim=1) == images.flatten(1).amin(dim=1)).float().mean().item()
    assert 0.4 < uniform < 0.65  # mixup is; so is a cut of all or nothing
