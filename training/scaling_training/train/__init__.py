"""The training loop and what it exchanges with its caller. Importing this package does not import torch.

``train`` itself is in `scaling_training.train.loop`, which does.
"""

from scaling_training.train.types import TrainingProgress, TrainOutcome, World

__all__ = ["TrainOutcome", "TrainingProgress", "World"]
