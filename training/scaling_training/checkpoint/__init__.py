"""Checkpoints: saved by one attempt into its own folder, committed by a manifest, verified before they are read.

Importing this package does not import torch: the driver looks for checkpoints on a head that has little
memory and time. What the files hold is the business of `scaling_training.checkpoint.state`.
"""

from scaling_training.checkpoint.catalog import LoadedCheckpoint, load_checkpoint, open_checkpoint
from scaling_training.checkpoint.checkpoints import Checkpoints
from scaling_training.checkpoint.manifest import CheckpointRef, DamagedError

__all__ = ["CheckpointRef", "Checkpoints", "DamagedError", "LoadedCheckpoint", "load_checkpoint", "open_checkpoint"]
