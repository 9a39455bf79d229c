"""The values that cross the loop's edge: how far it is, what came out. All are picklable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling_training.checkpoint import CheckpointRef
    from scaling_training.evaluate.metrics import Objective


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """How far training is. Each is complete in itself, so one that is lost or skipped does no harm.

    Rank 0's observer gets one when the loop is ready to start, after the first step, then about once a
    second, after each epoch, after each committed checkpoint, and at the end.
    """

    epoch: int  # epochs done
    epochs: int  # in all
    step: int  # optimizer steps done, those before a resume included
    steps: int  # in all
    workers: int
    # Names as in the rows of the curves: trainLoss, learningRate, and once an epoch was validated
    # valLoss and whatever else the task measures, as valAccuracy. Also dataWaitShare (0 to 1).
    metrics: Mapping[str, float] = field(default_factory=dict)
    objective: Objective | None = None  # which of them tells the better of two models; None: not known yet
    samples_per_second: float | None = None  # all workers, over the last interval
    eta_s: float | None = None
    checkpoint: str | None = None  # folder of the last committed checkpoint, relative to the run folder
    best: str | None = None  # folder of the best one
    first_step_at: float | None = None  # Unix time of the first optimizer step of this call of train()

    @property
    def percent(self) -> float:
        """Share of the steps that are done, 0 to 100."""
        return 100.0 * self.step / self.steps if self.steps else 100.0


@dataclass(frozen=True, slots=True)
class TrainOutcome:
    """What train() returns, on every rank alike."""

    stopped: bool  # True: stop_requested ended it early, after `checkpoint` was saved
    epoch: int  # epochs done
    step: int  # optimizer steps done
    checkpoint: CheckpointRef  # the last committed one
    # The one that validation finds best, by the objective, among those saved after an epoch; None before the first.
    best: CheckpointRef | None
    # Validation metrics of `best`, whatever the task measures; empty before the first epoch's end.
    metrics: Mapping[str, float]
    first_step_at: float | None  # Unix time; None when nothing was left to train
    seconds: float  # time spent training, over all attempts that this one continues
    history: str  # name of the curves in storage: JSON lines, one row per epoch
    # Update mode async: how many gradients missed 0, 1, 2, … updates by others.
    staleness: Sequence[int] = ()


def outcome_to_dict(outcome: TrainOutcome) -> dict[str, Any]:
    """Plain values, for other processes and for the ledger."""
    return asdict(outcome)


def outcome_from_dict(value: Mapping[str, Any]) -> TrainOutcome:
    """The inverse of `outcome_to_dict`."""
    from scaling_training.checkpoint import CheckpointRef

    best = value["best"]
    return replace(
        TrainOutcome(**value),
        checkpoint=CheckpointRef.from_dict(value["checkpoint"]),
        best=CheckpointRef.from_dict(best) if best is not None else None,
    )
