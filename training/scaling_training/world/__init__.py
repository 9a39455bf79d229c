"""The processes that train together: who takes part, what they add up or tell one another, their signs of life.

The ground of everything that runs in several processes. Importing this package does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class World:
    """This process among the training processes.

    With size > 1 the default torch.distributed process group of that size is initialised already, by whoever
    started the processes, and is torn down by them.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Rank 0: the one that writes to storage and reports."""
        return self.rank == 0
