"""Models: a table of records, each with a factory that returns a task. Importing this package does not import torch."""

from scaling_training.models.registry import MODELS, ModelRecord, build_task

__all__ = ["MODELS", "ModelRecord", "build_task"]
