"""Update rules and learning rate schedules. Importing this package does not import torch."""

from scaling_training.optim.optimizers import OPTIMIZERS, OptimizerRecord, build_optimizer
from scaling_training.optim.schedule import SCHEDULES, ScheduleRecord, learning_rate

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "OptimizerRecord",
    "ScheduleRecord",
    "build_optimizer",
    "learning_rate",
]
