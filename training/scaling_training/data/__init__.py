"""Data sets: where they come from, how they are split, in what order and with what changes they are trained on.

Importing this package does not import torch.
"""

from scaling_training.data.access import TestAccess
from scaling_training.data.dataset import Dataset
from scaling_training.data.registry import DATASETS, open_dataset

__all__ = ["DATASETS", "Dataset", "TestAccess", "open_dataset"]
