"""The parameter server as a training process sees it, and one within a process, for threads.

The calls block until there is another answer than to wait.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

from scaling_training.update.coordinator import Coordinator, Rate
from scaling_training.update.errors import FencedError
from scaling_training.update.messages import Closing, Counts, Group, Pushed, Row, Snapshot, Vector
from scaling_training.update.samples import Answer, Lease, Worker
from scaling_training.update.shard import ParameterShard


class Server(Protocol):
    """What workers call, rank 0 alone where it says so. Who was replaced gets FencedError from `next` and `push`.

    ServerLostError when a part of it ended since `open`: the next group starts it from the last checkpoint.
    """

    @property
    def shards(self) -> int:
        """Into how many parts the model is divided, at most."""

    def live(self) -> bool:
        """Whether nothing of what the server was told is lost, so that a new group can go on from there. Rank 0."""

    def rows(self) -> list[Row]:
        """The rows of the curves that the server knows. Rank 0."""

    def open(self, group: Group, start: Snapshot | None, rows: Sequence[Row]) -> int:
        """Let a group of workers take part, and no other; returns its incarnation. Rank 0, before anybody's `next`.

        With ``start`` and its rows of the curves go on from there, else from where everything is.
        """

    def next(self, worker: Worker) -> Lease | Closing | None:
        """Work to do: a lease, or for rank 0 an epoch to close. None: nothing is left, or all are to stop.

        The other ranks get None only after `dismiss`. After `fail` rank 0 gets UserError, also from `push` and
        `snapshot`.
        """

    def pull(self, version: int) -> Sequence[tuple[Vector, Vector]]:
        """Of each shard parameters and buffers, of this version or a later one."""

    def push(
        self, worker: Worker, lease: Lease, parts: Sequence[tuple[Vector, Vector]], loss_sum: float, skipped: int = 0
    ) -> Pushed:
        """Apply what a lease came to: of each shard the mean gradient and the buffers; the sum of the losses.

        ``skipped`` of the samples could not be read and were replaced.
        """

    def close_epoch(self, row: Row) -> None:
        """The epoch that `next` gave was validated. Rank 0."""

    def stop(self) -> None:
        """Give no more leases. Rank 0."""

    def fail(self, worker: Worker, sentence: str) -> None:
        """Have rank 0 end the group with this sentence, once it has saved. The others wait for that by `next`."""

    def dismiss(self) -> None:
        """All is closed and saved, and the others may go. Rank 0."""

    def snapshot(self, *, drained: bool) -> Snapshot:
        """Everything at one point; ``drained``: once no lease is out, after `stop`. Rank 0."""

    def counts(self) -> Counts:
        """How far the server is."""


class LocalServer:
    """A server whose workers are threads of this process. See `Server` for the methods."""

    def __init__(self, shards: Sequence[ParameterShard], rate: Rate) -> None:
        self._shards = shards
        self._coordinator = Coordinator(shards, rate)
        self._changed = threading.Condition()

    @property
    def shards(self) -> int:
        """How many."""
        return len(self._shards)

    def live(self) -> bool:
        """Whether something was loaded."""
        with self._changed:
            return self._coordinator.started and all(
                shard.position == self._coordinator.version for shard in self._shards
            )

    def rows(self) -> list[Row]:
        """Those that it was told."""
        with self._changed:
            return list(self._coordinator.rows)

    def open(self, group: Group, start: Snapshot | None, rows: Sequence[Row]) -> int:
        """Let a group take part."""
        with self._changed:
            if start is not None:
                for shard, state in zip(self._shards, start.shards, strict=False):
                    shard.load(state)
            incarnation = self._coordinator.open(group, None if start is None else start.ledger, rows)
            self._changed.notify_all()
            return incarnation

    def next(self, worker: Worker) -> Lease | Closing | None:
        """Work to do."""
        with self._changed:
            while True:
                answer = self._coordinator.next(worker)
                if answer is Answer.DONE:
                    return None
                if not isinstance(answer, Answer):
                    return answer
                self._wait(answer)

    def pull(self, version: int) -> Sequence[tuple[Vector, Vector]]:
        """What the shards hold now."""
        with self._changed:
            return [shard.pull() for shard in self._shards]

    def push(
        self, worker: Worker, lease: Lease, parts: Sequence[tuple[Vector, Vector]], loss_sum: float, skipped: int = 0
    ) -> Pushed:
        """Stage, then have it applied."""
        with self._changed:
            for shard, part in zip(self._shards, parts, strict=True):
                shard.stage(worker, lease.number, *part)
            while True:
                answer = self._coordinator.push(worker, lease.number, loss_sum, skipped)
                if not isinstance(answer, Answer):
                    self._changed.notify_all()
                    return answer
                self._wait(answer)

    def close_epoch(self, row: Row) -> None:
        """The epoch was validated."""
        with self._changed:
            self._coordinator.close_epoch(row)
            self._changed.notify_all()

    def stop(self) -> None:
        """Give no more leases."""
        with self._changed:
            self._coordinator.stop()
            self._changed.notify_all()

    def fail(self, worker: Worker, sentence: str) -> None:
        """A worker cannot go on."""
        with self._changed:
            self._coordinator.fail(worker, sentence)
            self._changed.notify_all()

    def dismiss(self) -> None:
        """The others may go."""
        with self._changed:
            self._coordinator.dismiss()
            self._changed.notify_all()

    def snapshot(self, *, drained: bool) -> Snapshot:
        """Everything at one point."""
        with self._changed:
            self._changed.wait_for(lambda: not drained or self._coordinator.idle or self._coordinator.failed)
            return self._coordinator.snapshot()

    def counts(self) -> Counts:
        """How far it is."""
        with self._changed:
            return self._coordinator.counts()

    def _wait(self, answer: Answer) -> None:
        if answer is Answer.FENCED:
            raise FencedError("another group of workers has taken this one's place")
        self._changed.wait()
