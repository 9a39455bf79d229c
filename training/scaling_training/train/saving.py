"""What a run keeps in storage while it goes: checkpoints, which of them is the best, and the curves.

Rank 0 alone reads and writes; what it read at the start reaches the others by broadcast, so all ranks begin
from the same bytes and object stores see one reader.
"""

from __future__ import annotations

import json
from dataclasses import replace

from scaling_training.checkpoint import CheckpointRef, Checkpoints
from scaling_training.checkpoint.key import checkpoint_key
from scaling_training.checkpoint.state import HISTORY, MODEL, TRAINING, Position, pack, unpack
from scaling_training.evaluate.classification import ACCURACY
from scaling_training.storage import Storage
from scaling_training.train.collectives import broadcast_bytes
from scaling_training.train.early_stopping import better
from scaling_training.train.history import Row, dump_rows, history_name, parse_rows
from scaling_training.train.setup import Setup

_FILES = (MODEL, TRAINING, HISTORY)


class Keeper:
    """The run's checkpoints and curves. ``latest`` and ``best`` are known on rank 0."""

    def __init__(self, setup: Setup, storage: Storage, attempt: int) -> None:
        self._setup = setup
        self._storage = storage
        self._attempt = attempt
        self._checkpoints = Checkpoints(
            storage,
            attempt=attempt,
            key=checkpoint_key(setup.spec, setup.dataset.fingerprint),
            keep=setup.spec.training.checkpoint.keep,
        )
        self.rows: list[Row] = []
        self.latest: CheckpointRef | None = None
        self.best: CheckpointRef | None = None

    def restore(self, resume: CheckpointRef | None) -> Position:
        """Put model and optimizer where the newest good checkpoint left them; every rank must call it."""
        loaded = None
        if self._setup.world.is_first:
            loaded = self._checkpoints.load_latest(base=self._checkpoints.base(resume))
        world = self._setup.world
        header = json.dumps(loaded and loaded.ref.to_dict()).encode() if world.is_first else None
        ref = json.loads(broadcast_bytes(world, header))
        if ref is None:
            return Position()
        files = {name: broadcast_bytes(world, loaded.files[name] if loaded else None) for name in _FILES}
        position = unpack(files, self._setup.task.model, self._setup.optimizer)
        self.rows = parse_rows(files[HISTORY])
        if loaded is not None:
            self.latest = loaded.ref
            best = loaded.manifest.best
            # Another run's checkpoint speaks of its best one relative to that run.
            self.best = replace(best, root=best.root or loaded.ref.root) if best else None
            self._storage.write(history_name(self._attempt), dump_rows(self.rows))
        return position

    def add_row(self, row: Row) -> None:
        """Another epoch's row of the curves."""
        self.rows.append(row)
        if self._setup.world.is_first:
            self._storage.write(history_name(self._attempt), dump_rows(self.rows))

    def save(self, position: Position, *, epoch: int, metrics: dict[str, float] | None) -> CheckpointRef:
        """Commit a checkpoint; with ``metrics`` of a validation at this point it may become the best. Rank 0 only."""
        improves = metrics is not None and better(metrics, position.best_metrics, ACCURACY)
        if metrics is not None and improves:
            position.best_metrics = dict(metrics)
        files = pack(self._setup.task.model, self._setup.optimizer, position)
        self.latest = self._checkpoints.save(
            position.step,
            {**files, HISTORY: dump_rows(self.rows)},
            epoch=epoch,
            metrics=metrics or {},
            best=self.best,
            is_best=improves,
        )
        if improves:
            self.best = self.latest
        return self.latest
