"""The schedule of an asynchronous training, which runs on samples applied."""

from __future__ import annotations

from collections.abc import Sequence

from scaling_api.training import TrainingSpec
from scaling_training.optim.schedule import learning_rate
from scaling_training.update.coordinator import Rate
from scaling_training.update.elastic import schedule_step
from scaling_training.update.messages import Row


def rate_of(training: TrainingSpec) -> Rate:
    """The rate of a whole batch: that of the step which a run in whole batches would take there."""

    def rate(samples_per_epoch: int, samples_applied: int, rows: Sequence[Row]) -> float:
        def step_at(cursor: int) -> int:
            return schedule_step(cursor, samples_per_epoch=samples_per_epoch, batch_size=training.batch_size)

        return learning_rate(
            training.schedule,
            peak=training.optimizer.learning_rate,
            step=step_at(samples_applied),
            total_steps=step_at(samples_per_epoch * training.epochs),
            steps_per_epoch=step_at(samples_per_epoch),
            history=rows,
        )

    return rate
