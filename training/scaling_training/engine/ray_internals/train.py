"""Ray Train's controller and what it is made of.

Public is only a trainer that runs the controller in an actor, with Ray's own policies. Ours runs it in the driver.
"""

from __future__ import annotations

from typing import Any

# Left out, because each starts an actor: for Ray Data, which is not used, and for freeing placement groups after a
# controller's death, which is the driver's and takes its Ray cluster along.
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

# What a group's end is told by. The public errors hold these, and they the cause.
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)

# The supervisor's hooks: the public UserCallback has none for a group's start, and gets no hold of its processes.
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

# The controller, run on a thread of the driver.
from ray.train.v2._internal.execution.controller import TrainController

# Policies: Ray has no public place for one's own.
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision, ScalingDecision, ScalingPolicy

# The group, made of processes that were started before.
from ray.train.v2._internal.execution.worker_group import (
    PlacementGroupHandle,
    Worker,
    WorkerGroup,
    WorkerGroupContext,
)

# The trainer whose callbacks and run are overridden; what Ray exports are trainers of frameworks.
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

__all__ = [
    "DataParallelTrainer",
    "DatasetsCallback",
    "FailureDecision",
    "FailurePolicy",
    "NoopDecision",
    "PlacementGroupCleanerCallback",
    "PlacementGroupHandle",
    "ResizeDecision",
    "ScalingDecision",
    "ScalingPolicy",
    "TrainController",
    "UserExceptionWithTraceback",
    "Worker",
    "WorkerGroup",
    "WorkerGroupCallback",
    "WorkerGroupContext",
    "WorkerGroupStartupFailedError",
    "WorkerGroupStartupTimeoutError",
    "WorkerHealthCheckFailedError",
    "unwrapped",
]


def unwrapped(error: Any) -> BaseException:
    """What a training process raised, or what its health check did, out of Ray's wrappers."""
    if isinstance(error, UserExceptionWithTraceback):
        base: BaseException = error._base_exc
        return base
    if isinstance(error, WorkerHealthCheckFailedError):
        inner: BaseException = error.health_check_failure
        return inner
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error
