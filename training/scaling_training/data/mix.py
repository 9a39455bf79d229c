"""Mixing training images in pairs: mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019).

Partners are neighbours in the order of the epoch, positions 2k and 2k+1 (the last of an odd number stays alone).
The order is random, so the partner is; and as it is a function of (seed, epoch), the pairs are the same for any
batch size and number of processes. A process reads at most two samples more than its own: the partners
beyond either end of its slice.

Each sample draws its own share lam of itself from Beta(alpha, alpha); with both kinds asked for, each sample
takes one of them with a chance of a half. Targets become the same mixture of the two classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaling_api.spec import Augmentation
from scaling_training.data.order import DataOrder
from scaling_training.data.random import Purpose, SampleWords, fractions

if TYPE_CHECKING:
    import torch

_DRAWS = 4  # kind, share, centre of the cut: y, x


@dataclass(frozen=True, slots=True)
class Pairs:
    """Who is mixed with whom in a batch."""

    indices: NDArray[np.int64]  # the batch's own, then the partners that are not among them
    partner: NDArray[np.int64]  # for each of the batch's own, the position of its partner in ``indices``


class Mixing:
    """The mixtures of one run. ``order`` is the order in which the samples are consumed."""

    def __init__(self, spec: Augmentation, *, seed: int, samples: int, classes: int, order: DataOrder) -> None:
        self._mixup = spec.mixup
        self._cutmix = spec.cutmix
        self._classes = classes
        self._order = order
        self._words = SampleWords(seed, Purpose.MIX, samples=samples, width=_DRAWS)
        self._epoch = -1
        self._sorter = np.empty(0, dtype=np.int64)

    def pairs(self, epoch: int, indices: NDArray[np.int64]) -> Pairs:
        """The partners of these indices; each must belong to the epoch's order."""
        order = self._order.indices(epoch)
        if epoch != self._epoch:
            self._sorter = np.argsort(order, kind="stable")
            self._epoch = epoch
        positions = self._sorter[np.searchsorted(order, indices, sorter=self._sorter)]
        partners = order[np.minimum(positions ^ 1, len(order) - 1)]
        everything = np.concatenate((indices, partners[~np.isin(partners, indices)]))
        sorter = np.argsort(everything, kind="stable")
        return Pairs(everything, sorter[np.searchsorted(everything, partners, sorter=sorter)])

    def apply(
        self, images: torch.Tensor, labels: torch.Tensor, pairs: Pairs, epoch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch's own images, mixed, and its targets [sample, class]; both arguments cover ``pairs.indices``."""
        import torch
        from torch.nn import functional

        own = len(pairs.partner)
        partner = torch.from_numpy(pairs.partner).to(images.device)
        draws = fractions(self._words.of(epoch, pairs.indices[:own]))
        height, width = images.shape[-2:]
        shares, keep = self._shares(draws, height=height, width=width)
        weight = torch.from_numpy(keep).to(images.device, images.dtype)[:, None]
        mixed = images[:own] * weight + images[partner] * (1.0 - weight)
        hot = functional.one_hot(labels, self._classes).to(images.dtype)
        share = torch.from_numpy(shares).to(images.device, images.dtype)[:, None]
        return mixed, hot[:own] * share + hot[partner] * (1.0 - share)

    def _shares(
        self, draws: NDArray[np.float64], *, height: int, width: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Each sample's share of itself, and the weight of each of its pixels [sample, height, width]."""
        cuts = np.full(len(draws), bool(self._cutmix)) if not self._mixup else draws[:, 0] < 0.5
        cuts &= bool(self._cutmix)
        shares = np.where(cuts, _beta(self._cutmix, draws[:, 1]), _beta(self._mixup, draws[:, 1]))
        keep = np.broadcast_to(shares.astype(np.float32)[:, None, None], (len(draws), height, width)).copy()
        side = np.sqrt(1.0 - shares)
        inside = []
        for length, centre in ((height, draws[:, 2]), (width, draws[:, 3])):
            half = side * length / 2.0
            low, high = np.rint(centre * length - half), np.rint(centre * length + half)
            place = np.arange(length)
            inside.append((place >= low[:, None]) & (place < high[:, None]))
        hole = inside[0][:, :, None] & inside[1][:, None, :]
        keep[cuts] = np.where(hole[cuts], 0.0, 1.0)
        # The cut is clipped at the edges, so the share is that of the pixels that are left.
        shares = np.where(cuts, keep.mean(axis=(1, 2), dtype=np.float64), shares)
        return shares, keep


def _beta(alpha: float, quantile: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draws from Beta(alpha, alpha) by its quantile function; 1 (no mixing) for alpha 0."""
    if not alpha:
        return np.ones_like(quantile)
    from scipy.special import betaincinv

    drawn: NDArray[np.float64] = betaincinv(alpha, alpha, quantile)
    return drawn
