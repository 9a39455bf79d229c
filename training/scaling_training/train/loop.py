"""The training loop."""

from __future__ import annotations

from collections.abc import Callable

from scaling_api.spec import ScalingJobSpec
from scaling_training.checkpoint import CheckpointRef
from scaling_training.storage import Storage
from scaling_training.train.types import TrainingProgress, TrainOutcome, World


def train(
    spec: ScalingJobSpec,
    *,
    storage: Storage,
    attempt: int,
    world: World,
    observer: Callable[[TrainingProgress], None],
    stop_requested: Callable[[], bool],
    resume: CheckpointRef | None,
) -> TrainOutcome:
    """Train to the end of the last epoch, or until asked to stop. Every rank calls it with the same arguments.

    ``storage`` is the run folder, the same place for all ranks. It starts from the newest committed checkpoint
    of this attempt (a restart of the worker group), else from the attempt's base: ``resume`` when given, else
    the newest checkpoint of an earlier attempt with the same model, data and training settings. So a caller
    passes ``resume`` only for another run's checkpoint (``CheckpointRef.root`` set) or to insist on one.

    ``observer`` and ``stop_requested`` are called on rank 0 only and must return at once. When
    ``stop_requested`` answers True, all ranks stop after the same step, a checkpoint is saved, and the outcome
    says stopped.

    Raises UserError for what the user must mend: a loss that is not finite, storage that cannot be written,
    a checkpoint that does not fit the model.
    """
    raise NotImplementedError
