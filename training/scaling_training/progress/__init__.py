"""How far a run is: one model, and those who show it (a terminal, a log, the operator).

The driver writes into the model and never waits; each who shows it has a thread of its own and takes the latest
state at its own pace. None of them can disturb training.
"""

from scaling_training.progress.model import ProgressModel, Snapshot

__all__ = ["ProgressModel", "Snapshot"]
