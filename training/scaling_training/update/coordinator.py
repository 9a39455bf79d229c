"""The coordinator of the parameter server: asks the ledger, and tells the shards.

Whatever carries it (one process, or an actor and its calls) must deliver the coordinator's calls to each shard in
the order in which it makes them. Then everything that is said here between two pushes happens, at every shard, between
the same two: a snapshot of all shards and of the ledger is consistent without a pause.

The rate of a push is the schedule's rate at the samples applied so far, times the share of its global batch that the
push is: with mean gradients that makes a batch that came in shares move the weights as far as one that came whole.

Pure, but for what it tells the shards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from scaling_training.errors import UserError
from scaling_training.update.messages import Closing, Commit, Counts, Group, Pushed, Row, Snapshot
from scaling_training.update.samples import Answer, Lease, SampleLedger, Worker
from scaling_training.update.staleness import scaling

# The rate for a whole batch, from the samples of an epoch, the samples applied and the rows of the curves so far.
Rate = Callable[[int, int, Sequence[Row]], float]


_NOBODY = Group(workers=0, samples=1, epochs=0, share=1, batch=1, bound=0, scaling=None)


class ShardPort(Protocol):
    """How the coordinator speaks to a shard."""

    def commit(self, commit: Commit) -> None:
        """Apply what was staged."""

    def state(self) -> Any:
        """The shard's state at this point, or what stands for it."""


class Coordinator:
    """The one place where pushes are put in order. Nobody gets work before `open`."""

    def __init__(self, shards: Sequence[ShardPort], rate: Rate) -> None:
        self._ledger = SampleLedger()
        self._shards = shards
        self._rate = rate
        self._group = _NOBODY
        self._incarnation = 0
        self._closings: deque[Closing] = deque()
        self._dismissed = False
        self._failure = ""  # why the group cannot go on
        self._loss_sum = 0.0
        self._last_rate = 0.0
        self.rows: list[Row] = []

    @property
    def started(self) -> bool:
        """Whether it was ever opened."""
        return self._incarnation > 0

    @property
    def version(self) -> int:
        """Pushes applied."""
        return self._ledger.version

    def open(self, group: Group, ledger: Mapping[str, Any] | None, rows: Sequence[Row]) -> int:
        """Let these workers take part, and nobody else; returns their incarnation.

        With ``ledger`` go on from that state, which the shards have loaded, with these rows of the curves;
        else from where everything is.
        """
        if ledger is not None:
            self._ledger.load_state_dict(ledger)
            self._closings.clear()
            self.rows = list(rows)
        self._incarnation += 1
        self._dismissed = False
        self._failure = ""
        self._group = group
        self._ledger.regroup(
            incarnation=self._incarnation,
            workers=group.workers,
            samples=group.samples,
            epochs=group.epochs,
            batch=group.batch,
            share=group.share,
            bound=group.bound,
            ahead=group.ahead,
        )
        if ledger is not None:
            applied = self._ledger.samples_applied
            self._last_rate = self._rate(group.samples, applied - 1, self.rows) if applied else 0.0
            # An epoch that was applied but not closed when the snapshot was taken.
            self._finish_epochs()
        return self._incarnation

    def next(self, worker: Worker) -> Lease | Closing | Answer:
        """What a worker without a lease does next; an epoch to close goes to rank 0. The others end after `dismiss`.

        After `fail` UserError for rank 0, and the others wait for `dismiss`.
        """
        if self._failure and worker.incarnation == self._incarnation:
            self._end(worker)
            return Answer.DONE if self._dismissed else Answer.WAIT
        if worker.rank == 0 and self._closings and worker.incarnation == self._incarnation:
            return self._closings[0]
        answer = self._ledger.lease(worker)
        if answer is Answer.DONE and worker.rank != 0 and not self._dismissed:
            # All meet at the end, and a collective does not wait for as long as a validation or a save may take.
            return Answer.WAIT
        return answer

    def push(self, worker: Worker, lease: int, loss_sum: float, skipped: int = 0) -> Pushed | Answer:
        """Apply what the worker has staged for this lease, unless it has to wait or does not count.

        UserError for rank 0 after `fail`: it may have to wait for a worker that pushes no more.
        """
        if worker.incarnation == self._incarnation:
            self._end(worker)
        ticket = self._ledger.push(worker, lease, loss_sum, skipped)
        if isinstance(ticket, Answer):
            return ticket
        self._loss_sum += loss_sum
        group = self._group
        self._last_rate = self._rate(group.samples, ticket.samples_before, self.rows)
        factor = ticket.samples / ticket.batch * scaling(group.scaling, ticket.staleness, group.workers)
        commit = Commit(worker, lease, ticket.position, self._last_rate * factor, 1.0 / group.workers)
        for shard in self._shards:
            shard.commit(commit)
        self._finish_epochs()
        return Pushed(ticket.staleness, self.counts())

    def close_epoch(self, row: Row) -> None:
        """Rank 0 has validated the epoch that it was given, and has saved what it wanted of it."""
        self._closings.popleft()
        self._ledger.close_epoch()
        self.rows.append(row)

    def stop(self) -> None:
        """Give no more leases."""
        self._ledger.stop()

    def fail(self, worker: Worker, sentence: str) -> None:
        """A worker cannot go on: rank 0, whose save may be in flight, is to end the group with its sentence."""
        if worker.incarnation == self._incarnation:
            self._failure = self._failure or sentence

    @property
    def failed(self) -> bool:
        """Whether a worker of the present group cannot go on."""
        return bool(self._failure)

    def _end(self, worker: Worker) -> None:
        if self._failure and worker.rank == 0:
            raise UserError(self._failure)

    def dismiss(self) -> None:
        """Rank 0 has nothing left to do."""
        self._dismissed = True

    @property
    def idle(self) -> bool:
        """Whether no lease is out."""
        return self._ledger.idle

    def snapshot(self) -> Snapshot:
        """Ledger and shards at this point; UserError after `fail`."""
        if self._failure:
            raise UserError(self._failure)
        return self._snapshot(self._ledger.epochs_closed)

    def counts(self) -> Counts:
        """How far it is."""
        histogram = self._ledger.histogram
        return Counts(
            version=self._ledger.version,
            samples=self._ledger.samples_applied,
            loss_sum=self._loss_sum,
            rate=self._last_rate,
            staleness_mean=histogram.mean,
            staleness_max=histogram.largest,
        )

    def _finish_epochs(self) -> None:
        while (epoch := self._ledger.epochs_closed + len(self._closings)) < self._ledger.epochs_applied:
            self._closings.append(
                Closing(
                    epoch, self._ledger.tally(epoch), self._last_rate, self._ledger.version, self._snapshot(epoch + 1)
                )
            )

    def _snapshot(self, closed: int) -> Snapshot:
        return Snapshot(self._ledger.state_dict(closed=closed), [shard.state() for shard in self._shards])
