"""How stale a gradient may be, and who may push now so that none gets staler.

The version of the parameters is the number of pushes applied. A gradient that was computed on version v and is
applied as push number n (from 0) has staleness n - v: so many pushes of others it knows nothing of. The bound is
that of stale synchronous parallel (Ho et al. 2013), counted in pushes instead of clocks, so that it holds for each
gradient and not only on average.

A gradient that is out has a deadline, v + bound: the last position at which it may be applied. Each push takes one
position. So the bound can be kept for all gradients that are out exactly if, with their deadlines in order, the
i-th is not before position n + i, which is the feasibility test of earliest-deadline-first scheduling (Liu and
Layland 1973). A push, or a new lease, that would break it waits. Nothing computed is ever thrown away, and
nobody waits for ever: whoever has the earliest deadline may always push.
"""

from __future__ import annotations

from collections.abc import Iterable


def feasible(deadlines: Iterable[int], position: int) -> bool:
    """Whether gradients with these deadlines can all be applied in time from ``position`` on, one per position."""
    return all(deadline >= position + index for index, deadline in enumerate(sorted(deadlines)))


def scaling(name: str | None, staleness: int, workers: int) -> float:
    """The factor on the rate of a gradient of this staleness; 1 for names other than ``inverse``.

    ``inverse`` is the staleness-aware rate of Zhang et al. (2016), rate / staleness. Theirs divides the rate of a
    whole batch; here a push is already weighted by its share of the batch, which stands for workers - 1, the staleness
    of workers of equal speed. So only what is staler than that is damped.
    """
    usual = max(1, workers - 1)
    return usual / staleness if name == "inverse" and staleness > usual else 1.0


class Histogram:
    """How many gradients had which staleness."""

    def __init__(self, counts: Iterable[int] = ()) -> None:
        self._counts = list(counts)

    def add(self, staleness: int) -> None:
        """Another gradient."""
        self._counts += [0] * (staleness + 1 - len(self._counts))
        self._counts[staleness] += 1

    @property
    def counts(self) -> list[int]:
        """By staleness, from 0 on."""
        return list(self._counts)

    @property
    def mean(self) -> float:
        """0 when there is none."""
        pushes = sum(self._counts)
        return sum(staleness * count for staleness, count in enumerate(self._counts)) / pushes if pushes else 0.0

    @property
    def largest(self) -> int:
        """0 when there is none."""
        return max((staleness for staleness, count in enumerate(self._counts) if count), default=0)
