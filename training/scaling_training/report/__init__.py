"""What a run leaves for people and programs: the model, its curves, its metrics, a summary.

Heavy libraries (matplotlib, torch) are imported where they are used.
"""

from scaling_training.report.artifact import load_model
from scaling_training.report.trained import TrainedModel

__all__ = ["TrainedModel", "load_model"]
