"""The actor that Ray Train runs a training function in.

Ours derives from it to import torch ahead, and is started before its group is; the public trainer starts processes
only when there is room for all.
"""

from __future__ import annotations

from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker

__all__ = ["RayTrainWorker"]
