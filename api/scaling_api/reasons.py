"""Every condition, reason and message that a person reads in a ScalingJob's status or events.

Each stands beside when it occurs. Messages are templates for str.format; one that reports a failure ends
with what helps.
"""

from __future__ import annotations

from enum import StrEnum


class ConditionType(StrEnum):
    """Conditions of a job. Succeeded and Failed are terminal: once True they stay."""

    ACCEPTED = "Accepted"  # True: the spec can be run. False: something only the operator can see is wrong.
    CLUSTER_READY = "ClusterReady"  # True: head and at least `min` workers of each group are up.
    RUNNING = "Running"  # True: the driver runs.
    SUSPENDED = "Suspended"  # True: no pods are left and none will come until suspend is false.
    UP_TO_DATE = "UpToDate"  # False: an edit waits for the next attempt.
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Failure(StrEnum):
    """Why an attempt, a pod or a job failed."""

    USER_ERROR = "UserError"  # the driver refused: spec, code or data of the user
    DRIVER_FAILED = "DriverFailed"  # the driver ended with an unlisted exit code
    OUT_OF_MEMORY = "OutOfMemory"  # a container was OOM-killed, or Ray's memory monitor killed a worker
    IMAGE_PULL_FAILED = "ImagePullFailed"  # ErrImagePull, ImagePullBackOff, InvalidImageName, ErrImageNeverPull
    CONTAINER_CONFIG = "ContainerConfigError"  # CreateContainerConfigError: a Secret, key or claim is missing
    UNSCHEDULABLE = "Unschedulable"  # no node fits
    INIT_STUCK = "InitStuck"  # an init phase took longer than its limit
    EVICTED = "Evicted"  # the kubelet evicted the pod (disk, memory)
    PREEMPTED = "Preempted"  # the scheduler or a node shutdown took the pod
    NODE_LOST = "NodeLost"  # the node stopped answering
    POD_DELETED = "PodDeleted"  # somebody deleted the pod
    RAY_RESTARTED = "RayContainerRestarted"  # the head's Ray container restarted: its cluster state is gone
    STOPPED = "DriverStopped"  # the driver was asked to stop, not by suspension
    DEADLINE_EXCEEDED = "DeadlineExceeded"  # activeDeadlineSeconds ran out
    BACKOFF_LIMIT = "BackoffLimitExceeded"  # more failures than backoffLimit
    INVALID_SPEC = "InvalidSpec"  # the API server accepted a spec that the models refuse
    REFUSED_BY_API = "RefusedByAPIServer"  # admission, quota or Pod Security refused an object


class Reason(StrEnum):
    """Reasons of conditions and events that are not failures."""

    VALID = "Valid"
    WAITING_FOR_HEAD = "WaitingForHead"
    WAITING_FOR_WORKERS = "WaitingForWorkers"
    CLUSTER_READY = "ClusterReady"
    DRIVER_RUNNING = "DriverRunning"
    DRIVER_STARTING = "DriverStarting"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    ACTIVE = "Active"
    ENDED = "Ended"
    CURRENT = "Current"
    EDIT_PENDING = "EditPending"
    COMPLETED = "Completed"
    ATTEMPT_STARTED = "AttemptStarted"
    WORKER_REPLACED = "WorkerReplaced"
    RETRYING = "Retrying"
