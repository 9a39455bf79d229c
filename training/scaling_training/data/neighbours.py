"""Labels that their neighbours contradict.

Each picture, brought down to a few grey pixels, is compared with its k nearest others; a label with at most one of
their votes, where another class has at least eight in ten, is suspect. That is Wilson's rule for editing data (Wilson
1972, "Asymptotic Properties of Nearest Neighbor Rules Using Edited Data") with a wide majority in place of a bare one.

Where classes cannot be told apart by such pixels the rule says nothing: below an agreement of `LEAST_AGREEMENT`
there is no estimate. Above, the share of suspects errs upwards by odd but right labels, and downwards by wrong
labels in mixed neighbourhoods.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling_training.data.hashes import shrunk

NEIGHBOURS = 10
LEAST_AGREEMENT = 0.6
_SIDE = 12
_OWN_VOTES = 1
_RIVAL_VOTES = 8


@dataclass(frozen=True, slots=True)
class Suspects:
    """What the neighbours say."""

    agreement: float  # share of samples whose label is the majority's
    positions: NDArray[np.int64]  # of suspect samples, the most contradicted first
    rivals: NDArray[np.int64]  # for each, the class that its neighbours have


def suspects(images: NDArray[np.generic], labels: NDArray[np.int64], *, classes: int) -> Suspects | None:
    """The samples with a suspect label; None when there are too few to compare, or pixels do not tell the classes."""
    count = len(labels)
    if count <= 2 * NEIGHBOURS:
        return None
    points = shrunk(images, _SIDE, _SIDE).reshape(count, -1)
    points -= points.mean(axis=0)
    squares = np.einsum("np,np->n", points, points)
    distances = squares[:, None] + squares - 2.0 * (points @ points.T)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argpartition(distances, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    votes = np.zeros((count, classes), dtype=np.int64)
    np.add.at(votes, (np.arange(count)[:, None], labels[nearest]), 1)
    rivals = votes.argmax(axis=1)
    agreement = float((rivals == labels).mean())
    if agreement < LEAST_AGREEMENT:
        return None
    own = votes[np.arange(count), labels]
    strength = votes.max(axis=1)
    found = np.flatnonzero((own <= _OWN_VOTES) & (strength >= _RIVAL_VOTES) & (rivals != labels))
    found = found[np.argsort(own[found] - strength[found], kind="stable")]
    return Suspects(agreement, found, rivals[found])
