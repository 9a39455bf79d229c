"""What a model is worth. Importing this package imports neither torch nor torchmetrics."""

from scaling_training.evaluate.metrics import Metrics, Objective, validation_key
from scaling_training.evaluate.overfitting import overfitting_onset

__all__ = ["Metrics", "Objective", "overfitting_onset", "validation_key"]
