"""Update mode async: what each training process does, and what rank 0 does besides.

A worker asks for a lease, pulls the parameters, computes the mean gradient over the lease's samples and pushes it;
the server decides when it is applied (see `samples`) and at what rate. No worker waits for all others.

When every sample of an epoch is applied, the server keeps a snapshot of that moment, and rank 0 gets it instead of
its next lease: it validates, adds the row to the curves, saves. The others go on meanwhile, at most to the end of
the next epoch. A checkpoint holds the ledger's state beside model and optimizer, so a later run goes on with
exactly those samples that were not applied. Batch norm's statistics are the server's, to which all workers
contribute (see `shard`).

When the group of workers is started anew while the server lives, it goes on from what the server holds, and nothing
is lost but the gradients that were out.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import torch

from scaling_api.spec import ScalingJobSpec
from scaling_training.checkpoint import CheckpointRef, Checkpoints
from scaling_training.checkpoint.state import Position, Trained
from scaling_training.data.batches import Batch
from scaling_training.data.order import rank_slice
from scaling_training.data.requests import Request
from scaling_training.errors import UserError
from scaling_training.evaluate.metrics import validation_key
from scaling_training.models.freeze import apply_freeze
from scaling_training.optim.clip import clip_gradients
from scaling_training.optim.tensors import local_norms
from scaling_training.parallel.mesh import Mesh, MeshShape
from scaling_training.storage import Storage
from scaling_training.train.account import Account, Observer, Stopwatch, agreed
from scaling_training.train.contained import contained
from scaling_training.train.early_stopping import should_stop
from scaling_training.train.history import history_name
from scaling_training.train.saving import Keeper
from scaling_training.train.setup import Setup, set_up
from scaling_training.train.start import Start
from scaling_training.train.step import step_phase
from scaling_training.train.types import TrainOutcome
from scaling_training.train.validation import validate
from scaling_training.update.layout import PartView, adopt, divide, shard_states
from scaling_training.update.messages import Closing, Counts, Group, Pushed, Snapshot
from scaling_training.update.samples import Lease, SampleLedger, Stretch, Worker
from scaling_training.update.server import Server
from scaling_training.world import World
from scaling_training.world.collectives import broadcast_bytes
from scaling_training.world.heartbeat import Beat, Phase, silent

# Updates that a gradient may miss when the user did not say: so many for each worker.
STALENESS_PER_WORKER = 4


class DivergedError(UserError):
    """The numbers are none any more, for every rank that goes on."""


@contained
def train_async(
    spec: ScalingJobSpec,
    *,
    storage: Storage,
    attempt: int,
    world: World,
    observer: Observer,
    stop_requested: Callable[[], bool],
    key: str,
    resume: CheckpointRef | None,
    server: Server,
    beat: Beat = silent,
) -> TrainOutcome:
    """As `train.loop.train`, with the parameters at ``server``, which all ranks share.

    FencedError when another group of workers has taken this one's place.
    """
    setup = set_up(spec, world)
    apply_freeze(setup.task, spec.model.freeze, 0)
    checkpoints = Checkpoints(storage, attempt=attempt, key=key, keep=spec.training.checkpoint.keep)
    keeper = Keeper(
        Trained(setup.task.model, setup.optimizer), world=world, checkpoints=checkpoints, objective=setup.objective
    )
    position = keeper.restore(Start(checkpoints, world=world, resume=resume, beat=beat))
    incarnation = _join(setup, keeper, position, server)
    leader = _Leader(setup, keeper, position, server, observer, stop_requested, beat) if world.is_first else None
    # The furthest behind is who holds the oldest version, and it is that one that others may wait for.
    version = position.step
    if leader is not None:
        leader.report()
    with closing(LeasedData(setup, beat)) as data:
        worker = _Worker(setup, server, Worker(world.rank, incarnation), data, beat)
        try:
            while True:
                beat(Phase.WAIT, version)
                if leader is not None:
                    leader.before_work()
                work = server.next(worker.identity)
                if work is None:
                    break
                if isinstance(work, Closing):
                    assert leader is not None
                    leader.close(work, version)
                    continue
                beat(Phase.DATA, version := work.version)
                pushed = worker.compute_and_push(work)
                version = pushed.counts.version
                if leader is not None:
                    leader.after_push(pushed, worker.data_wait_s)
            outcome = leader.finish(history_name(attempt), version) if leader is not None else None
        except UserError as error:
            if leader is not None:
                # The save in flight is of weights that were good.
                beat(Phase.SAVE, version, expected_s=keeper.expected_s)
                keeper.wait()
                server.dismiss()
            elif isinstance(error, DivergedError):
                # Rank 0 has the save in flight, and the first error that is raised has the engine end the others.
                server.fail(worker.identity, str(error))
                beat(Phase.WAIT, version)
                server.next(worker.identity)
            raise
    if leader is not None:
        server.dismiss()
    beat(Phase.END, version)
    return agreed(world, outcome)


def a_group(setup: Setup) -> Group:
    """The terms on which the present workers share the work."""
    training, workers = setup.spec.training, setup.world.size
    update = training.update
    bound = update.max_staleness
    return Group(
        workers=workers,
        samples=len(setup.training),
        epochs=training.epochs,
        share=-(-training.batch_size // workers),
        batch=training.batch_size,
        bound=STALENESS_PER_WORKER * workers if bound is None else bound,
        scaling=update.staleness_scaling,
        ahead=setup.training.ahead,
    )


def _join(setup: Setup, keeper: Keeper, position: Position, server: Server) -> int:
    """Have the server go on from what it holds, else from the checkpoint; the group's incarnation."""
    known = None
    if setup.world.is_first:
        if server.live():
            incarnation = server.open(a_group(setup), None, ())
            keeper.rows = server.rows()
        else:
            parts = divide(setup.task.model, server.shards)
            states = shard_states(setup.task.model, setup.optimizer, parts, position=position.step)
            ledger = position.update or SampleLedger().state_dict()
            incarnation = server.open(a_group(setup), Snapshot(ledger, states), keeper.rows)
        known = str(incarnation).encode()
    return int(broadcast_bytes(setup.world, known))


class LeasedData:
    """The samples of one worker's leases, read ahead as far as its leases promise.

    A lease and the leases that it promises have at least as many micro-batches as the stream of them takes ahead,
    so the stream never runs dry before the server has nothing more to promise.
    """

    def __init__(self, setup: Setup, beat: Beat) -> None:
        self._setup = setup
        self._beat = beat
        self._promised: deque[Stretch] = deque()
        self._to_read: deque[Stretch] = deque()
        self._batches = setup.training.stream(self._requests(), together=True)

    def of(self, lease: Lease) -> Iterator[Batch]:
        """The lease's micro-batches; leases must come in the order in which the server gave them."""
        held = self._promised.popleft() if self._promised else None
        if held is None:
            self._to_read.append(lease.stretch)
        assert held in (None, lease.stretch), f"{lease.stretch} came in place of {held}"
        new = lease.ahead[len(self._promised) :]
        self._promised += new
        self._to_read += new
        for _ in range(self._pieces(lease.stretch)):
            self._beat(Phase.DATA, lease.version)
            yield next(self._batches)

    def close(self) -> None:
        """End the reading processes."""
        self._batches.close()

    def _requests(self) -> Iterator[Request]:
        while self._to_read:
            stretch = self._to_read.popleft()
            samples, pieces = len(stretch), self._pieces(stretch)
            batch = self._setup.order.batch_at(stretch.start)
            for piece in range(pieces):
                yield Request(batch.epoch, batch.indices[:samples][rank_slice(samples, piece, pieces)])

    def _pieces(self, stretch: Stretch) -> int:
        return min(self._setup.micro_batches, len(stretch))


class _Worker:
    """The part of every rank."""

    def __init__(self, setup: Setup, server: Server, identity: Worker, data: LeasedData, beat: Beat) -> None:
        self.identity = identity
        self._data = data
        self._beat = beat
        self.data_wait_s = 0.0
        self._setup = setup
        self._server = server
        self._views = [PartView(setup.task.model, part) for part in divide(setup.task.model, server.shards)]

    def compute_and_push(self, lease: Lease) -> Pushed:
        """The gradient of a lease; DivergedError when it or its loss is not finite, which never reaches the server."""
        setup, samples = self._setup, len(lease.stretch)
        for view, (parameters, buffers) in zip(self._views, self._server.pull(lease.version), strict=True):
            view.load(parameters, buffers)
        setup.optimizer.zero_grad()
        loss_sum = torch.zeros((), dtype=torch.float64, device=setup.world.device)
        self.data_wait_s = 0.0
        skipped = setup.training.skipped
        asked = time.monotonic()
        for batch in self._data.of(lease):
            self.data_wait_s += time.monotonic() - asked
            self._beat(step_phase(setup, batch), lease.version)
            loss_sum += setup.replica.forward_backward(batch, scale=1.0 / samples)
            asked = time.monotonic()
        # The last pass may have been one that compiled.
        self._beat(Phase.STEP, lease.version)
        gradients = [parameter.grad for parameter in setup.parameters if parameter.grad is not None]
        # One wait for the device, for both.
        value, norm = torch.stack((loss_sum, local_norms(gradients).sum().to(loss_sum))).tolist()
        for what, known in (("loss", value), ("gradient's norm", norm)):
            if not math.isfinite(known):
                epoch = lease.stretch.start // len(setup.training)
                raise _diverged(setup, f"training {what} became {known} in epoch {epoch + 1}")
        if (limit := setup.spec.training.clip_norm) is not None:
            clip_gradients(setup.parameters, limit)
        parts = [(view.gradients(), view.buffer_values()) for view in self._views]
        return self._server.push(self.identity, lease, parts, value, setup.training.skipped - skipped)


class _Leader:
    """What only rank 0 does: validate, save, report, pass on the wish to stop."""

    def __init__(
        self,
        setup: Setup,
        keeper: Keeper,
        position: Position,
        server: Server,
        observer: Observer,
        stop_requested: Callable[[], bool],
        beat: Beat,
    ) -> None:
        self.keeper = keeper
        self._beat = beat
        self.position = position
        self.account = Account(setup, keeper, observer)
        self._setup = setup
        self._server = server
        self._stop_requested = stop_requested
        self._stopping = False
        self._counts: Counts = server.counts()
        self._saved_at = self._counts.version
        # For validation: the others have no part in it.
        world = World(0, 1, setup.world.device)
        self._alone = replace(setup, world=world, mesh=Mesh.laid(MeshShape(), world))
        self._watch = Stopwatch()

    @property
    def epochs_done(self) -> int:
        return len(self.keeper.rows)

    @property
    def ended_early(self) -> bool:
        """Whether the rows say that it is enough."""
        policy = self._setup.spec.training.early_stopping
        return should_stop(self.keeper.rows, policy, self._setup.objective) is not None

    def before_work(self) -> None:
        if not self._stopping and (self._stop_requested() or self.ended_early):
            self._stopping = True
            self._server.stop()

    def after_push(self, pushed: Pushed, data_wait_s: float) -> None:
        before, self._counts = self._counts, pushed.counts
        samples, loss_sum = self._counts.samples - before.samples, self._counts.loss_sum - before.loss_sum
        due = self.account.stepped(samples=samples, loss_sum=loss_sum, data_wait_s=data_wait_s)
        if self.keeper.poll() or due:
            self.report()
        every = self._setup.spec.training.checkpoint.every_steps
        if every and self._counts.version // every > self._saved_at // every:
            self._begin_saving(self._counts.version)
            self._save(self._server.snapshot(drained=False), None, self._counts.version)

    def close(self, closing: Closing, version: int) -> None:
        """An epoch's end: validate its weights, add the row, save when due. ``version``: the last this process saw."""
        self._beat(Phase.VALIDATION, version)
        setup, training = self._setup, self._setup.spec.training
        adopt(closing.snapshot.shards, setup.task.model, setup.optimizer)
        measured = validate(self._alone)
        assert measured is not None, "rank 0 of its own world"
        metrics = measured.scalars()
        self._begin_saving(version)
        if not math.isfinite(metrics.get("loss", 0.0)):
            self.keeper.wait()
            raise _diverged(setup, f"validation loss became {metrics['loss']} after epoch {closing.epoch + 1}")
        self.position.seconds += self._watch.lap_s()
        tally = closing.tally
        row: dict[str, float | int] = {
            "epoch": closing.epoch + 1,
            "step": closing.version,
            "trainLoss": tally.loss_sum / tally.samples,
            "learningRate": closing.rate,
            "stalenessMean": tally.staleness_sum / tally.pushes,
            "stalenessMax": tally.staleness_max,
        }
        if setup.spec.dataset.unreadable == "skip":
            row["skippedSamples"] = tally.skipped
        row |= {validation_key(name): value for name, value in metrics.items()}
        row["seconds"] = round(self.position.seconds, 3)
        self.keeper.add_row(row)
        self.account.closed(row)
        if row["epoch"] % training.checkpoint.every_epochs == 0 or row["epoch"] == training.epochs or self.ended_early:
            self._save(closing.snapshot, metrics, version)
            # Should this process end before the commit, the next one is given the epoch again.
            self.keeper.wait()
        self._server.close_epoch(row)
        self.report()

    def finish(self, history: str, version: int) -> TrainOutcome:
        """Save what is left after a stop, and say what came out. ``version`` as for `close`."""
        self._begin_saving(version)
        snapshot = self._server.snapshot(drained=True)
        stopped = snapshot.ledger["epochsClosed"] < self._setup.spec.training.epochs and not self.ended_early
        if stopped:
            self._save(snapshot, None, version)
        self.keeper.wait()
        self.report()
        assert self.keeper.latest is not None, "the last epoch and a stop both save"
        return TrainOutcome(
            stopped=stopped,
            epoch=self.epochs_done,
            step=self.position.step,
            checkpoint=self.keeper.latest,
            best=self.keeper.best,
            metrics=self.position.best_metrics,
            first_step_at=self.account.first_step_at,
            seconds=self.position.seconds,
            history=history,
            staleness=list(snapshot.ledger["histogram"]),
        )

    def report(self) -> None:
        counts, group = self._counts, a_group(self._setup)
        if counts.version:
            self.account.metrics |= {"stalenessMean": counts.staleness_mean, "learningRate": counts.rate}
        left = group.samples * group.epochs - counts.samples
        self.account.report(
            epoch=self.epochs_done, step=counts.version, steps_left=-(-left // group.share), samples_left=left
        )

    def _begin_saving(self, version: int) -> None:
        """Before whatever waits for storage."""
        self._beat(Phase.SAVE, version, expected_s=self.keeper.expected_s)

    def _save(self, snapshot: Snapshot, metrics: dict[str, float] | None, version: int) -> None:
        adopt(snapshot.shards, self._setup.task.model, self._setup.optimizer)
        # Once more: until the first snapshot there was no state of the optimizer, which may be most of what is saved.
        self._begin_saving(version)
        self.position.seconds += self._watch.lap_s()
        ledger = dict(snapshot.ledger)
        self._saved_at = ledger["version"]
        self.position.cursor, self.position.step = ledger["samplesApplied"], ledger["version"]
        self.position.update = ledger
        self.keeper.save(self.position, epoch=self.epochs_done, metrics=metrics)


def _diverged(setup: Setup, what: str) -> DivergedError:
    rate = setup.spec.training.optimizer.learning_rate
    return DivergedError(
        f"the {what}: lower training.optimizer.learningRate ({rate:g}) or training.update.maxStaleness, "
        "or let the rate rise slowly by training.schedule.warmupFraction"
    )
