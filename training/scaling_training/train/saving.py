"""What a run keeps in storage while it goes: checkpoints, which of them is the best, and the curves.

When every process holds the same (one process, or data parallelism), rank 0 alone saves, and nobody else copies
anything. When the processes hold different parts, each saves its own. Either way the files are written in the
background; where the processes must then talk to one another, they do so in a gloo group of their own, so that no
save ever comes between two collectives of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from scaling_training.checkpoint import CheckpointRef, Checkpoints
from scaling_training.checkpoint.background import BackgroundSaver
from scaling_training.checkpoint.manifest import FileEntry
from scaling_training.checkpoint.state import HISTORY, POSITION, Position, Trained
from scaling_training.errors import UserError
from scaling_training.evaluate.metrics import Objective
from scaling_training.optim.tensors import local
from scaling_training.storage import USUAL_RATE
from scaling_training.train.early_stopping import better
from scaling_training.train.history import Row, dump_rows, history_name, parse_rows
from scaling_training.train.start import Start
from scaling_training.world import World

if TYPE_CHECKING:
    from scaling_training.checkpoint.tensors import ShardWriter

# A process that writes its part may be this much slower than another.
_PATIENCE = timedelta(minutes=30)


class Keeper:
    """The run's checkpoints and curves. ``latest`` (committed) and ``best`` are known on rank 0.

    Building one is a collective operation, and so are `restore`, `save` and `wait`.
    """

    def __init__(
        self,
        trained: Trained,
        *,
        world: World,
        checkpoints: Checkpoints,
        objective: Objective,
    ) -> None:
        self._trained = trained
        self._world = world
        self._objective = objective
        self._checkpoints = checkpoints
        self._spread = world.size > 1 and trained.is_sharded
        self._group: Any = dist.new_group(backend="gloo", timeout=_PATIENCE) if self._spread else None
        self._saver = BackgroundSaver()
        self._committed: CheckpointRef | None = None
        self._is_best = False
        self.rows: list[Row] = []
        self.latest: CheckpointRef | None = None
        self.best: CheckpointRef | None = None

    @property
    def blocked_s(self) -> float:
        """How long training waited for the last save, in seconds."""
        return self._saver.blocked_s

    @property
    def expected_s(self) -> float:
        """How long a save may be expected to take, in seconds: as the longest so far, or by the size of this part."""
        size = sum(local(tensor).nbytes for tensor in self._trained.tensors().values())
        return max(self._saver.longest_s, size / USUAL_RATE)

    def restore(self, start: Start) -> Position:
        """Put the trained state where the checkpoint that training goes on from left it."""
        loaded = start.take()
        if loaded is None:
            return Position()
        position = self._trained.load(loaded)
        self.rows = parse_rows(loaded.read(HISTORY))
        if self._world.is_first:
            self.latest = loaded.ref
            best = loaded.manifest.best
            # Another run's checkpoint speaks of its best one relative to that run.
            self.best = replace(best, root=best.root or loaded.ref.root) if best else None
            self._write_rows()
        return position

    def add_row(self, row: Row) -> None:
        """Another epoch's row of the curves."""
        self.rows.append(row)
        if self._world.is_first:
            self._write_rows()

    def _write_rows(self) -> None:
        self._checkpoints.storage.write(history_name(self._checkpoints.attempt), dump_rows(self.rows))

    def save(self, position: Position, *, epoch: int, metrics: Mapping[str, float] | None) -> None:
        """Begin to save; with ``metrics`` of a validation at this point, on rank 0, it may become the best.

        Returns when the state is copied, after the save before it has ended, and raises what that one raised.
        """
        if not self._spread and not self._world.is_first:
            return
        # Imported late: it imports parts of torch that another thread imports while a process starts.
        from scaling_training.checkpoint.tensors import ShardWriter

        # Also takes in which checkpoint is the best so far.
        self.wait()
        self._is_best = metrics is not None and better(metrics, position.best_metrics, self._objective)
        if metrics is not None and self._is_best:
            position.best_metrics = dict(metrics)
        step = position.step
        extra = {POSITION: self._trained.position_file(position), HISTORY: dump_rows(self.rows)}
        best, is_best = self.best, self._is_best

        def commit(ref: CheckpointRef, files: dict[str, FileEntry]) -> None:
            written = {name: self._checkpoints.write(ref, name, data) for name, data in extra.items()}
            self._checkpoints.commit(
                ref, {**files, **written}, epoch=epoch, metrics=metrics or {}, best=best, is_best=is_best
            )
            self._committed = ref

        writer = ShardWriter(
            begin=lambda: self._checkpoints.begin(step),
            write=self._checkpoints.write,
            commit=commit,
            shard=self._world.rank if self._spread else None,
        )
        self._saver.save(self._trained.tensors(), lambda tensors: _write(tensors, writer, self._group))

    def poll(self) -> bool:
        """Whether a checkpoint was committed since the last call, without waiting; raises what a save raised."""
        return self._saver.poll() and self._take_in()

    def wait(self) -> None:
        """Wait for the save in flight, if there is one; raises what it raised."""
        self._saver.wait()
        self._take_in()

    def _take_in(self) -> bool:
        committed, self._committed = self._committed, None
        if committed is None:
            return False
        self.latest = committed
        if self._is_best:
            self.best = committed
        return True


def _write(tensors: Mapping[str, torch.Tensor], writer: ShardWriter, group: Any) -> None:
    from torch.distributed.checkpoint.api import CheckpointException

    from scaling_training.checkpoint.tensors import save

    try:
        save(tensors, writer, group)
    except CheckpointException as error:
        # Every process gets the errors of all; a user's mistake speaks for them.
        causes = [failure[0] for failure in error.failures.values()]
        raise next((cause for cause in causes if isinstance(cause, UserError)), causes[0]) from error
