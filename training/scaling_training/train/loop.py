"""The training loop: epochs of steps, each epoch closed by a validation and, when due, a checkpoint.

The state is small and explicit: a Position (cursor, step, what was counted), the curves' rows, model and
optimizer. Whatever is decided, is decided from numbers that are equal on all ranks, so the ranks never
disagree about what comes next; only storage and the observer are rank 0's business. An epoch whose steps are
done but whose row is missing (a stop came in between) is closed first after a resume.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict

import torch

from scaling_api.spec import ScalingJobSpec
from scaling_training.checkpoint import CheckpointRef, Checkpoints
from scaling_training.checkpoint.state import Position, Trained
from scaling_training.data.batches import Batch
from scaling_training.data.reach import far_out
from scaling_training.errors import UserError
from scaling_training.evaluate.metrics import Metrics, validation_key
from scaling_training.models.freeze import apply_freeze
from scaling_training.optim import global_batch_size
from scaling_training.parallel.consistency import ReplicasDifferError, check_replicas
from scaling_training.storage import Storage
from scaling_training.train.account import Account, Observer, Stopwatch, agreed
from scaling_training.train.contained import contained
from scaling_training.train.early_stopping import should_stop
from scaling_training.train.history import Row, history_name
from scaling_training.train.saving import Keeper
from scaling_training.train.setup import Setup, set_up
from scaling_training.train.start import Start
from scaling_training.train.step import LossNotFiniteError, StepResult, requests_from, train_step
from scaling_training.train.types import TrainOutcome
from scaling_training.train.validation import validate
from scaling_training.update.elastic import Resize, effective_factor, resized, schedule_step
from scaling_training.update.rate import rate_of
from scaling_training.world import World
from scaling_training.world.collectives import broadcast_bytes, sum_in_place
from scaling_training.world.heartbeat import Beat, Phase, silent


@contained
def train(
    spec: ScalingJobSpec,
    *,
    storage: Storage,
    attempt: int,
    world: World,
    observer: Observer,
    stop_requested: Callable[[], bool],
    key: str,
    resume: CheckpointRef | None,
    beat: Beat = silent,
) -> TrainOutcome:
    """Train to the end of the last epoch, or until asked to stop. Every rank calls it with the same arguments.

    ``storage`` is the run folder, the same place for all ranks, and ``key`` names the work. It starts from the newest
    good checkpoint with this key: of this attempt (a restart of the worker group), else of the attempts before it,
    else ``resume``, which is another run's (``CheckpointRef.root`` set).

    ``observer`` and ``stop_requested`` are called on rank 0 only and must return at once. When
    ``stop_requested`` answers True, all ranks stop after the same step, a checkpoint is saved, and the outcome
    says stopped. ``beat`` is told on every rank what it does, for a watchdog.

    Raises UserError for what the user must mend: a loss that is not finite, storage that cannot be written,
    a checkpoint that does not fit the model.
    """
    checkpoints = Checkpoints(storage, attempt=attempt, key=key, keep=spec.training.checkpoint.keep)
    start = Start(checkpoints, world=world, resume=resume, beat=beat)
    setup = set_up(spec, world, earlier=start.layout)
    keeper = Keeper(
        Trained(
            setup.task.model,
            setup.optimizer,
            setup.ema,
            is_part=setup.mesh.shape.pipeline > 1,
            outer=setup.meetings.state,
        ),
        world=world,
        checkpoints=checkpoints,
        objective=setup.objective,
    )
    position = keeper.restore(start)
    position.layout = setup.layout.to_dict() if setup.layout is not None else {}
    setup.loss_scale.restore(position.loss_scale)
    loop = _Loop(setup, keeper, position, observer, stop_requested, beat)
    stopped = loop.run()
    loop.finish()
    return _outcome(loop, history_name(attempt), stopped)


class _Loop:
    def __init__(
        self,
        setup: Setup,
        keeper: Keeper,
        position: Position,
        observer: Observer,
        stop_requested: Callable[[], bool],
        beat: Beat,
    ) -> None:
        self.setup = setup
        self.keeper = keeper
        self.position = position
        self._resize = self._note_workers()
        self.account = Account(setup, keeper, observer)
        self._stop_requested = stop_requested
        self._beat = beat
        self._skipped = setup.training.skipped  # what the position has taken in of this process's count
        # Time counts from here; what earlier attempts spent is in the position.
        self._watch = Stopwatch()

    @property
    def epochs_done(self) -> int:
        return self.position.cursor // len(self.setup.training)

    @property
    def _finished(self) -> bool:
        training = self.setup.spec.training
        ended_early = should_stop(self.keeper.rows, training.early_stopping, self.setup.objective) is not None
        return ended_early or self.epochs_done == training.epochs

    def run(self) -> bool:
        """Go on to the end; True when it was stopped before."""
        if self.setup.world.is_first:
            self._report()
        requests = requests_from(self.setup, self.position.cursor)
        with closing(self.setup.training.stream(requests)) as feed:
            while True:
                if len(self.keeper.rows) < self.epochs_done:
                    self._close_epoch()
                if self._finished:
                    return False
                if self._steps_of_epoch(feed):
                    self._save_within_epoch()
                    return True

    def finish(self) -> None:
        """Wait for the last checkpoint to be committed, and say so."""
        self._begin_saving()
        self.keeper.wait()
        if self.setup.world.is_first:
            self._report()
        self._beat(Phase.END, self.position.step)

    def _steps_of_epoch(self, feed: Iterator[Batch]) -> bool:
        """The steps up to the epoch's end; True when stopped."""
        setup, position = self.setup, self.position
        training = setup.spec.training
        apply_freeze(setup.task, setup.spec.model.freeze, self.epochs_done)
        while True:
            batch = setup.order.batch_at(position.cursor)
            stop = setup.world.is_first and self._stop_requested()
            rate = self._rate_at(position.cursor)
            try:
                result = train_step(setup, feed, batch, step=position.step, rate=rate, stop=stop, beat=self._beat)
            except LossNotFiniteError as error:
                what, epoch = f"training {error} at", self.epochs_done + 1
                far = far_out(setup.dataset.train, batch.indices)
                raise self._diverged(what, position.step + 1, epoch, everywhere=error.everywhere, far=far) from error
            position.cursor = batch.end
            position.step += 1
            if math.isfinite(result.loss_sum):  # in fp16 a forward pass may overflow; its step was left out
                position.epoch_loss_sum += result.loss_sum
            self._after_step(result)
            if result.stop:
                return True
            if batch.ends_epoch:
                return False
            # Where the ranks meet, for only there their weights are equal; the first meeting after it was due.
            every = training.checkpoint.every_steps
            if every and position.step // every > (position.step - result.steps) // every:
                self._save_within_epoch()

    def _after_step(self, result: StepResult) -> None:
        committed = self.keeper.poll()
        if not self.setup.world.is_first:
            return
        due = self.account.stepped(
            samples=result.samples,
            loss_sum=result.loss_sum,
            data_wait_s=result.data_wait_s,
            gradient_norm=result.gradient_norm,
        )
        if due or committed:
            self._report()

    def _close_epoch(self) -> None:
        """Validate, add the row, save when due. Every rank takes part and gets the same row."""
        setup, position = self.setup, self.position
        self._beat(Phase.VALIDATION, position.step)
        self._check_replicas()
        metrics = validate(setup)
        self._count_skipped()
        position.seconds += self._watch.lap_s()
        row = self._agree_on_row(metrics)
        if not math.isfinite(row.get("valLoss", 0.0)):
            # The last step spoilt the weights; the checkpoint before it is better than one with these.
            raise self._diverged(f"validation loss became {row['valLoss']} after", position.step, self.epochs_done)
        self._begin_saving()
        self.keeper.add_row(row)
        position.epoch_loss_sum, position.epoch_skipped = 0.0, 0
        self.account.closed(row)
        due = self.epochs_done % setup.spec.training.checkpoint.every_epochs == 0
        if due or self._finished:
            self._save(metrics)
        elif setup.world.is_first:
            self._report()

    def _agree_on_row(self, metrics: Metrics | None) -> Row:
        """The epoch's row as rank 0, which has the metrics, makes it."""
        setup, position = self.setup, self.position
        made = None
        if metrics is not None:
            row: dict[str, float | int] = {
                "epoch": self.epochs_done,
                "step": position.step,
                "trainLoss": position.epoch_loss_sum / len(setup.training),
                "learningRate": setup.optimizer.param_groups[0]["lr"],
            }
            if setup.spec.dataset.unreadable == "skip":
                row["skippedSamples"] = position.epoch_skipped
            row |= {validation_key(name): value for name, value in metrics.scalars().items()}
            row["seconds"] = round(position.seconds, 3)
            made = json.dumps(row).encode()
        agreed: Row = json.loads(broadcast_bytes(setup.world, made))
        return agreed

    def _rate_at(self, cursor: int) -> float:
        """The schedule's rate there, by the rule for the present number of workers."""
        setup = self.setup
        samples = len(setup.training)
        factor = effective_factor(
            setup.spec.training.elastic,
            batch_size=global_batch_size(setup.spec.training, samples),
            last=self._resize,
            cursor=cursor,
            samples_per_epoch=samples,
        )
        return rate_of(setup.spec.training)(samples, cursor, self.keeper.rows) * factor

    def _note_workers(self) -> Resize:
        """Take in whether the number of workers changed since the checkpoint, and have the next one know."""
        setup, samples = self.setup, len(self.setup.training)
        before = self.position.update.get("resize")
        now = resized(
            setup.spec.training.elastic,
            Resize(**before) if before else None,
            workers=setup.mesh.batch_ranks,
            batch_size=global_batch_size(setup.spec.training, samples),
            cursor=self.position.cursor,
            samples_per_epoch=samples,
        )
        self.position.update["resize"] = asdict(now)
        return now

    def _steps_left(self) -> int:
        samples, size = len(self.setup.training), self.setup.order.batch_size
        end = samples * self.setup.spec.training.epochs
        now, last = (
            schedule_step(cursor, samples_per_epoch=samples, batch_size=size) for cursor in (self.position.cursor, end)
        )
        return last - now

    def _save_within_epoch(self) -> None:
        self._check_replicas()
        self._save(None)

    def _check_replicas(self) -> None:
        """Before anything is said or saved of weights that are not what the steps should have made of them."""
        try:
            check_replicas(self.setup.replica.model, self.setup.mesh)
        except ReplicasDifferError:
            self._finish_saving(everywhere=True)
            raise

    def _save(self, metrics: Metrics | None) -> None:
        """Begin a checkpoint. Every rank takes part."""
        self._begin_saving()
        self.position.seconds += self._watch.lap_s()
        self._count_skipped()
        self.position.loss_scale = self.setup.loss_scale.state()
        self.keeper.save(self.position, epoch=self.epochs_done, metrics=metrics.scalars() if metrics else None)
        if self.setup.world.is_first:
            self.account.metrics["saveBlockedSeconds"] = self.keeper.blocked_s
            self._report()

    def _begin_saving(self) -> None:
        """Before whatever waits for storage."""
        self._beat(Phase.SAVE, self.position.step, expected_s=self.keeper.expected_s)

    def _count_skipped(self) -> None:
        """Add up over the processes what was skipped since the last time; a collective operation."""
        setup = self.setup
        if setup.spec.dataset.unreadable != "skip":
            return
        before, self._skipped = self._skipped, setup.training.skipped
        # Ranks that share a batch rank read the same samples.
        mine = self._skipped - before if setup.mesh.is_batch_leader else 0
        total = torch.tensor(mine, dtype=torch.int64, device=setup.world.device)
        sum_in_place(setup.world, total)
        self.position.epoch_skipped += int(total.item())

    def _report(self) -> None:
        account, position = self.account, self.position
        if account.first_step_at is not None:
            account.metrics["learningRate"] = self.setup.optimizer.param_groups[0]["lr"]
        account.report(
            epoch=self.epochs_done,
            step=position.step,
            steps_left=self._steps_left(),
            samples_left=len(self.setup.training) * self.setup.spec.training.epochs - position.cursor,
        )

    def _finish_saving(self, *, everywhere: bool) -> str:
        """Before an error: wait for the save in flight, which is of weights that were good.

        ``everywhere``, if all ranks are about to raise it, for all ranks' saves: the first error has the engine end the
        others. Returns the newest checkpoint's folder as far as it is known; empty when there is none.
        """
        self._begin_saving()
        self.keeper.wait()
        latest = self.keeper.latest.folder if self.keeper.latest else ""
        if not everywhere:
            return latest
        return broadcast_bytes(self.setup.world, latest.encode() if self.setup.world.is_first else None).decode()

    def _diverged(
        self, what: str, step: int, epoch: int, *, everywhere: bool = True, far: str | None = None
    ) -> UserError:
        """Both count from 1; ``far``: which sample of the step has numbers far from 0."""
        latest = self._finish_saving(everywhere=everywhere)
        rate = self.setup.spec.training.optimizer.learning_rate
        kept = f"; {latest} is kept" if latest else ""
        scale = f"{far}: bring them to about mean 0 and deviation 1, or leave it out; else " if far else ""
        return UserError(
            f"the {what} step {step} (epoch {epoch}): {scale}lower training.optimizer.learningRate ({rate:g}), "
            f"or let it rise slowly by training.schedule.warmupFraction{kept}"
        )


def _outcome(loop: _Loop, history: str, stopped: bool) -> TrainOutcome:
    """On every rank as rank 0 knows it."""
    keeper, position, world = loop.keeper, loop.position, loop.setup.world
    known = None
    if world.is_first:
        assert keeper.latest is not None, "the last epoch and a stop both save"
        known = TrainOutcome(
            stopped=stopped,
            epoch=loop.epochs_done,
            step=position.step,
            checkpoint=keeper.latest,
            best=keeper.best,
            metrics=position.best_metrics,
            first_step_at=loop.account.first_step_at,
            seconds=position.seconds,
            history=history,
        )
    return agreed(world, known)
