"""The few collective operations over all processes, which are nothing at all in a world of one."""

from __future__ import annotations

import torch
import torch.distributed as dist

from scaling_training.world import World

# Of what is broadcast as bytes: a checkpoint's files may be larger than what is free on a GPU.
PIECE_BYTES = 64 * 2**20


class PendingSum:
    """A sum over all ranks that is under way."""

    def __init__(self, values: torch.Tensor, work: dist.Work | None) -> None:
        self._values = values
        self._work = work

    def wait(self) -> list[float]:
        """The sums, equal on all ranks."""
        if self._work is not None:
            self._work.wait()
        sums: list[float] = self._values.tolist()
        return sums


def begin_sum(world: World, values: torch.Tensor) -> PendingSum:
    """Start adding up ``values`` over the ranks, in place; every rank must call it at the same point."""
    if world.size == 1:
        return PendingSum(values, None)
    return PendingSum(values, dist.all_reduce(values, async_op=True))


def sum_in_place(world: World, values: torch.Tensor) -> None:
    """Add up ``values`` over the ranks."""
    if world.size > 1:
        dist.all_reduce(values)


def broadcast_bytes(world: World, data: bytes | None) -> bytes:
    """Rank 0's ``data`` on every rank; the others pass None. On the device there is no more than a piece at a time."""
    if world.size == 1:
        assert data is not None
        return data
    length = torch.tensor([len(data or b"")], dtype=torch.int64, device=world.device)
    dist.broadcast(length, src=0)
    size = int(length.item())
    received = bytearray(0 if world.is_first else size)
    piece = torch.empty(min(size, PIECE_BYTES), dtype=torch.uint8, device=world.device)
    for start in range(0, size, PIECE_BYTES):
        stop = min(start + PIECE_BYTES, size)
        part = piece[: stop - start]
        if data is not None:
            part.copy_(torch.frombuffer(bytearray(data[start:stop]), dtype=torch.uint8))
        dist.broadcast(part, src=0)
        if data is None:
            torch.frombuffer(received, dtype=torch.uint8, count=stop - start, offset=start).copy_(part)
    return data if data is not None else bytes(received)
