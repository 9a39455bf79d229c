"""The learning rate as a function of samples consumed, so that it does not depend on how many a step takes."""

from __future__ import annotations

from collections.abc import Sequence

from scaling_api.training import TrainingSpec
from scaling_training.optim import global_batch_size, learning_rate
from scaling_training.update.coordinator import Rate
from scaling_training.update.elastic import schedule_step
from scaling_training.update.messages import Row


def rate_of(training: TrainingSpec) -> Rate:
    """The rate at so many samples since the run began, as a run in batches of batchSize has it."""

    def rate(samples_per_epoch: int, samples: int, rows: Sequence[Row]) -> float:
        batch_size = global_batch_size(training, samples_per_epoch)

        def step_at(cursor: int) -> int:
            return schedule_step(cursor, samples_per_epoch=samples_per_epoch, batch_size=batch_size)

        return learning_rate(
            training.schedule,
            peak=training.optimizer.learning_rate,
            step=step_at(samples),
            total_steps=step_at(samples_per_epoch * training.epochs),
            steps_per_epoch=step_at(samples_per_epoch),
            history=rows,
        )

    return rate
