"""The training loops and what they exchange with their caller. Importing this package does not import torch.

`loop` is that of processes that take steps together, `async_loop` that of processes around a parameter server; `loops`
says which of them a spec asks for.
"""

from scaling_training.train.types import TrainingProgress, TrainOutcome
from scaling_training.world import World

__all__ = ["TrainOutcome", "TrainingProgress", "World"]
