"""Evaluation of a checkpoint in one process. Importing this package imports neither torch nor torchmetrics."""

from scaling_training.evaluate.metrics import Metrics
from scaling_training.evaluate.run import evaluate

__all__ = ["Metrics", "evaluate"]
