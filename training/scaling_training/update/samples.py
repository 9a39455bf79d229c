"""Who takes which samples, and which push is applied when: the one authority of an asynchronous training.

The data order of a run is a line of samples, epoch after epoch (`data.order`). A lease gives a worker the next
stretch of it, never across the end of a global batch or an epoch. When the worker's gradient is accepted, the
stretch is done; when the worker is lost before that, the stretch is given to somebody else. A lease does not
expire by time: a slow worker is no lost one, and a sample that counted twice would be the price of an error.
Workers are lost when a new group takes their place: it has a higher incarnation, and what an earlier one still
sends is refused (fencing). So each sample of an epoch counts exactly once, whatever happens to workers.

An accepted push gets a ticket: its number in the order in which all shards apply them, its staleness (see
`staleness`), and how many samples were applied before it, which is what schedules run on.

Leases run at most one epoch ahead of the last that was closed (validated), so that snapshots do not pile up.

So that a worker can read samples before it computes on them, a lease tells what the same worker's next ones will
be. What is promised is nobody else's until the worker is lost; it has no version and no deadline until it is
leased, so reading ahead makes no gradient staler.

Pure: no clock, no threads, no I/O. Whoever gets WAIT asks again after the next push.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from scaling_training.update.staleness import Histogram, feasible


class Answer(Enum):
    """What is said instead of a lease or a ticket."""

    WAIT = "wait"  # ask again after the next push, or when an epoch was closed
    DONE = "done"  # nothing is left to lease, or training is being stopped
    FENCED = "fenced"  # another group has taken the worker's place, or the lease is not its own


@dataclass(frozen=True, slots=True)
class Worker:
    """A training process: its rank, and the number of its group, of which only the latest counts."""

    rank: int
    incarnation: int


@dataclass(frozen=True, slots=True, order=True)
class Stretch:
    """Samples of the run's order, by cursor; all of one global batch."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Lease:
    """A stretch in the hands of a worker."""

    number: int
    stretch: Stretch
    version: int  # of the parameters, when it was given: its gradient is computed on this one or a later one
    ahead: tuple[Stretch, ...] = ()  # what the worker's next leases will be, in order


@dataclass(frozen=True, slots=True)
class Ticket:
    """An accepted push."""

    lease: int
    position: int  # number of pushes applied before it
    staleness: int
    samples: int
    batch: int  # samples of the global batch that they are part of
    samples_before: int  # applied in all before it


@dataclass(slots=True)
class EpochTally:
    """What was applied of an epoch so far."""

    samples: int = 0
    loss_sum: float = 0.0
    pushes: int = 0
    staleness_sum: int = 0
    staleness_max: int = 0
    skipped: int = 0  # samples that could not be read and were replaced


class SampleLedger:
    """The samples of a run. Nobody has a lease before `regroup`."""

    def __init__(self) -> None:
        self._samples = 0  # of an epoch
        self._end = 0  # the cursor at the end of the last epoch
        self._incarnation = 0
        self._workers = 0
        self._batch = 0
        self._share = 0
        self._bound = 0
        self._ahead = 0
        self._promised: dict[Worker, deque[Stretch]] = {}
        self._leases: dict[Worker, Lease] = {}
        self._given = 0  # leases
        self._stopping = False
        # What a snapshot holds:
        self._cursor = 0  # samples promised, leased or applied, but for the returned ones
        self._returned: list[Stretch] = []
        self.version = 0  # pushes applied
        self.samples_applied = 0
        self.epochs_closed = 0
        self._tallies: dict[int, EpochTally] = {}
        self.histogram = Histogram()

    def regroup(
        self,
        *,
        incarnation: int,
        workers: int,
        samples: int,
        epochs: int,
        batch: int,
        share: int,
        bound: int,
        ahead: int = 0,
    ) -> None:
        """From now on the ranks below ``workers`` of this incarnation count, and no process before them.

        What the others held or were promised is leased anew. The run has ``epochs`` epochs of ``samples`` samples,
        in global batches of ``batch``; ``share`` is the length of a lease in samples, ``bound`` the greatest
        staleness that a push may have, ``ahead`` how many stretches a worker is promised beyond the one it holds.
        """
        assert incarnation > self._incarnation
        assert samples > 0
        assert share > 0
        self._samples, self._end = samples, samples * epochs
        self._incarnation, self._workers = incarnation, workers
        self._batch, self._share, self._bound, self._ahead = batch, share, bound, ahead
        self._returned += self._held()
        self._leases.clear()
        self._promised.clear()
        self._stopping = False

    def stop(self) -> None:
        """Give no more leases; those that are out may still be pushed."""
        self._stopping = True

    def lease(self, worker: Worker) -> Lease | Answer:
        """The next stretch for a worker that holds none."""
        if not self._counts(worker):
            return Answer.FENCED
        assert worker not in self._leases, f"{worker} holds a lease already"
        if self._stopping:
            return Answer.DONE
        promised = self._promised.setdefault(worker, deque())
        stretch = promised[0] if promised else self._next()
        if stretch is None:
            # What others hold may come back, should its worker be lost.
            return Answer.WAIT if self._held() else Answer.DONE
        if stretch.start // self._samples > self.epochs_closed + 1:
            return Answer.WAIT
        # The new deadline is the latest of all, so this asks whether one more finds a position.
        if not feasible([*self._deadlines(), self.version + self._bound], self.version):
            return Answer.WAIT
        if promised:
            promised.popleft()
        else:
            self._take(stretch)
        while len(promised) < self._ahead and (following := self._next()) is not None:
            self._take(following)
            promised.append(following)
        lease = Lease(self._given, stretch, self.version, tuple(promised))
        self._given += 1
        self._leases[worker] = lease
        return lease

    def push(self, worker: Worker, number: int, loss_sum: float, skipped: int = 0) -> Ticket | Answer:
        """Accept the gradient of a lease, unless it has to wait or does not count.

        ``loss_sum`` is the sum of the losses over the samples of the lease, of which ``skipped`` were replaced.
        """
        lease = self._leases.get(worker)
        if lease is None or lease.number != number or not self._counts(worker):
            return Answer.FENCED
        others = [held.version + self._bound for other, held in self._leases.items() if other != worker]
        if not feasible(others, self.version + 1):
            return Answer.WAIT
        staleness = self.version - lease.version
        assert staleness <= self._bound
        batch_start, batch_end = self._batch_around(lease.stretch.start)
        ticket = Ticket(
            lease=number,
            position=self.version,
            staleness=staleness,
            samples=len(lease.stretch),
            batch=batch_end - batch_start,
            samples_before=self.samples_applied,
        )
        del self._leases[worker]
        self.version += 1
        self.samples_applied += ticket.samples
        self.histogram.add(staleness)
        tally = self._tallies.setdefault(lease.stretch.start // self._samples, EpochTally())
        tally.samples += ticket.samples
        tally.loss_sum += loss_sum
        tally.skipped += skipped
        tally.pushes += 1
        tally.staleness_sum += staleness
        tally.staleness_max = max(tally.staleness_max, staleness)
        return ticket

    @property
    def epochs_applied(self) -> int:
        """Epochs of which every sample is applied, and of all before them."""
        done = self.epochs_closed
        while done in self._tallies and self._tallies[done].samples == self._samples:
            done += 1
        return done

    def tally(self, epoch: int) -> EpochTally:
        """What was applied of an epoch (from 0) that is not closed."""
        return replace(self._tallies.get(epoch, EpochTally()))

    def close_epoch(self) -> None:
        """The first epoch that is not closed was validated; its tally is forgotten."""
        assert self.epochs_applied > self.epochs_closed
        del self._tallies[self.epochs_closed]
        self.epochs_closed += 1

    @property
    def idle(self) -> bool:
        """Whether no lease is out."""
        return not self._leases

    def state_dict(self, *, closed: int | None = None) -> dict[str, Any]:
        """What is done and what is not, as plain values; what is out counts as not done.

        With ``closed`` as it will be once so many epochs are closed, for a snapshot that is saved with their rows.
        """
        closed = self.epochs_closed if closed is None else closed
        open_stretches = sorted([*self._returned, *self._held()])
        return {
            "cursor": self._cursor,
            "open": [[stretch.start, stretch.end] for stretch in open_stretches],
            "version": self.version,
            "samplesApplied": self.samples_applied,
            "epochsClosed": closed,
            "tallies": {
                str(epoch): [
                    tally.samples,
                    tally.loss_sum,
                    tally.pushes,
                    tally.staleness_sum,
                    tally.staleness_max,
                    tally.skipped,
                ]
                for epoch, tally in self._tallies.items()
                if epoch >= closed
            },
            "histogram": self.histogram.counts,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; all leases that are out are void."""
        self._leases.clear()
        self._promised.clear()
        self._cursor = state["cursor"]
        self._returned = [Stretch(start, end) for start, end in state["open"]]
        self.version = state["version"]
        self.samples_applied = state["samplesApplied"]
        self.epochs_closed = state["epochsClosed"]
        self._tallies = {int(epoch): EpochTally(*values) for epoch, values in state["tallies"].items()}
        self.histogram = Histogram(state["histogram"])

    def _counts(self, worker: Worker) -> bool:
        return worker.incarnation == self._incarnation and worker.rank < self._workers

    def _next(self) -> Stretch | None:
        if self._returned:
            # The oldest first, so that epochs get done in their order.
            return min(self._returned)
        if self._cursor == self._end:
            return None
        return Stretch(self._cursor, min(self._cursor + self._share, self._batch_around(self._cursor)[1]))

    def _take(self, stretch: Stretch) -> None:
        """What `_next` gave is somebody's."""
        if self._returned:
            self._returned.remove(stretch)
        else:
            self._cursor = stretch.end

    def _held(self) -> list[Stretch]:
        """What is leased or promised."""
        leased = [lease.stretch for lease in self._leases.values()]
        return leased + [stretch for promised in self._promised.values() for stretch in promised]

    def _batch_around(self, cursor: int) -> tuple[int, int]:
        """Where the global batch that the cursor lies in starts and ends; an epoch's last one may be smaller."""
        epoch, offset = divmod(cursor, self._samples)
        start = offset // self._batch * self._batch
        return epoch * self._samples + start, epoch * self._samples + min(start + self._batch, self._samples)

    def _deadlines(self) -> list[int]:
        return [lease.version + self._bound for lease in self._leases.values()]
