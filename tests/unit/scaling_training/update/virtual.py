"""Virtual workers: a deterministic scheduler that interleaves workers of different speed with one coordinator.

Time is a number of ticks. A worker that gets a lease pulls at once, holds its gradient for as many ticks as it is
slow, stages it and asks to push, again at each tick while it has to wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scaling_training.update.coordinator import Coordinator
from scaling_training.update.messages import Closing, Group, Pushed, Vector
from scaling_training.update.samples import Answer, Lease, Worker
from scaling_training.update.shard import ParameterShard

Pulled = Sequence[tuple[Vector, Vector]]
# From a lease and what was pulled: what to stage at each shard, and the sum of the losses.
Compute = Callable[[Lease, Pulled], tuple[Pulled, float]]


@dataclass(slots=True)
class Push:
    """A push that was applied."""

    worker: Worker
    lease: Lease
    staleness: int


@dataclass(slots=True)
class _Running:
    worker: Worker
    ticks: int  # a gradient takes
    lease: Lease | None = None
    pulled: Pulled = ()
    left: int = 0
    done: bool = False


class Simulation:
    """Workers with these ticks per gradient, by rank."""

    def __init__(self, coordinator: Coordinator, shards: Sequence[ParameterShard], compute: Compute) -> None:
        self.coordinator = coordinator
        self.pushes: list[Push] = []
        self.closings: list[Closing] = []
        self.waits = 0
        self._shards = shards
        self._compute = compute
        self._running: list[_Running] = []
        self._gone: list[_Running] = []

    def start(self, ticks: Sequence[int], group: Group) -> None:
        """A new group; what ran before is lost, though it does not know it yet."""
        incarnation = self.coordinator.open(group, None, ())
        self._gone += self._running
        self._running = [_Running(Worker(rank, incarnation), slow) for rank, slow in enumerate(ticks)]

    def run(self, ticks: int = 100_000) -> bool:
        """Go on for so many ticks; True when all are done."""
        for _ in range(ticks):
            for running in [*self._gone, *self._running]:
                self._advance(running)
            if all(running.done for running in self._running):
                return True
        return False

    def _advance(self, running: _Running) -> None:
        if running.done:
            return
        if running.lease is None:
            self._begin(running)
            return
        running.left -= 1
        if running.left > 0:
            return
        parts, loss_sum = self._compute(running.lease, running.pulled)
        for shard, part in zip(self._shards, parts, strict=True):
            shard.stage(running.worker, running.lease.number, *part)
        answer = self.coordinator.push(running.worker, running.lease.number, loss_sum)
        if isinstance(answer, Pushed):
            self.pushes.append(Push(running.worker, running.lease, answer.staleness))
            running.lease = None
        elif answer is Answer.FENCED:
            running.done = True
        else:
            self.waits += 1

    def _begin(self, running: _Running) -> None:
        answer = self.coordinator.next(running.worker)
        if isinstance(answer, Closing):
            self.closings.append(answer)
            self.coordinator.close_epoch({"epoch": answer.epoch + 1})
        elif isinstance(answer, Lease):
            running.lease = answer
            running.pulled = [shard.pull() for shard in self._shards]
            running.left = running.ticks
        else:
            running.done = answer is not Answer.WAIT
            if answer is Answer.DONE and running.worker.rank == 0:
                self.coordinator.dismiss()
