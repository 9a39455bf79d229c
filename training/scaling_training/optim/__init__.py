"""Update rules, learning rate schedules and what goes with them. Importing this package does not import torch.

`clip` (gradient clipping), `ema` (averaged weights) and `tensors` do, so they are imported where they are used.
"""

from scaling_training.optim.optimizers import OPTIMIZERS, OptimizerRecord, build_optimizer, global_batch_size
from scaling_training.optim.scaling import SCALING_RULES, RuleRecord, ramped_factor, rate_factor
from scaling_training.optim.schedule import SCHEDULES, ScheduleRecord, learning_rate

__all__ = [
    "OPTIMIZERS",
    "SCALING_RULES",
    "SCHEDULES",
    "OptimizerRecord",
    "RuleRecord",
    "ScheduleRecord",
    "build_optimizer",
    "global_batch_size",
    "learning_rate",
    "ramped_factor",
    "rate_factor",
]
