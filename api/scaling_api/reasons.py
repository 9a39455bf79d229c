"""Every condition and reason that a person reads in a ScalingJob's status or events.

Each carries when it occurs. The messages beside them are written where the facts are: one that reports a
failure names what failed and ends with what helps.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Described(StrEnum):
    """A word of the status with its meaning."""

    description: str

    def __new__(cls, value: str, description: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.description = description
        return member


class ConditionType(Described):
    """Conditions of a job. Succeeded and Failed are terminal: once True they stay."""

    ACCEPTED = "Accepted", "True: the spec can be run. False: something only the operator can see is wrong."
    CLUSTER_READY = "ClusterReady", "True: head and at least `min` workers of each group are up."
    RUNNING = "Running", "True: the driver runs."
    SUSPENDED = "Suspended", "True: no pods are left and none will come until suspend is false."
    UP_TO_DATE = "UpToDate", "False: an edit waits for the next attempt."
    STALLED = "Stalled", "True: the driver answers, and nothing has advanced for ten minutes. Absent until then."
    SUCCEEDED = "Succeeded", "True: the job has ended, with a result."
    FAILED = "Failed", "True: the job has ended without a result; reason and message say why."


class Failure(Described):
    """Why an attempt, a pod or a job failed."""

    USER_ERROR = "UserError", "The driver refused: spec, code or data of the user."
    DRIVER_FAILED = "DriverFailed", "The driver ended with an unlisted exit code."
    STORAGE_AWAY = "StorageUnavailable", "Storage did not answer when the attempt began."
    OUT_OF_MEMORY = "OutOfMemory", "A container was OOM-killed, or Ray's memory monitor killed a worker."
    PARAMETER_SERVER_LOST = (
        "ParameterServerLost",
        "Update mode async: processes that hold the weights, on the head, were lost again and again.",
    )
    IMAGE_PULL_FAILED = (
        "ImagePullFailed",
        "ErrImagePull, ImagePullBackOff, InvalidImageName or ErrImageNeverPull.",
    )
    CONTAINER_CONFIG = "ContainerConfigError", "CreateContainerConfigError: a Secret, key or claim is missing."
    UNSCHEDULABLE = "Unschedulable", "No node fits."
    INIT_STUCK = "InitStuck", "An init phase took longer than its limit."
    EVICTED = "Evicted", "The kubelet evicted the pod (disk, memory)."
    PREEMPTED = "Preempted", "The scheduler or a node shutdown took the pod."
    NODE_LOST = "NodeLost", "The node stopped answering."
    POD_DELETED = "PodDeleted", "Somebody deleted the pod."
    OBJECTS_GONE = (
        "AttemptObjectsGone",
        "The attempt's Secret was deleted, or the job was edited under the attempt unseen.",
    )
    RAY_RESTARTED = "RayContainerRestarted", "The head's Ray container restarted: its cluster state is gone."
    UNRESPONSIVE = "Unresponsive", "Processes of a pod were frozen, or got no CPU: nothing in it answered any more."
    STOPPED = "DriverStopped", "The driver was asked to stop, not by suspension."
    DEADLINE_EXCEEDED = "DeadlineExceeded", "activeDeadlineSeconds ran out; Failed stays False while the driver saves."
    BACKOFF_LIMIT = "BackoffLimitExceeded", "More failures than backoffLimit."
    INVALID_SPEC = "InvalidSpec", "The API server accepted a spec that the operator's models refuse."
    REFUSED_BY_API = (
        "RefusedByAPIServer",
        "Admission, quota or Pod Security refused an object, its name is taken, or creating one keeps failing.",
    )


class Reason(Described):
    """Reasons of conditions and events that are not failures."""

    VALID = "Valid", "The spec can be run."
    WAITING_FOR_HEAD = "WaitingForHead", "The head pod is not up yet."
    WAITING_FOR_WORKERS = "WaitingForWorkers", "Fewer than `min` workers of a group are up."
    CLUSTER_READY = "ClusterReady", "Head and workers are up."
    DRIVER_RUNNING = "DriverRunning", "The driver's container runs."
    DRIVER_STARTING = "DriverStarting", "The driver's container has not started yet."
    NOT_ADVANCING = "NotAdvancing", "By the driver's own word, no step was made and no stage went on."
    ADVANCING = "Advancing", "Something advances again."
    SUSPENDING = "Suspending", "The driver saves a checkpoint; then the pods go."
    SUSPENDED = "Suspended", "All pods are gone."
    RESUMED = "Resumed", "Suspend is false again: a new attempt goes on from the last checkpoint."
    ACTIVE = "Active", "The job is not suspended."
    ENDED = "Ended", "The job has ended."
    CURRENT = "Current", "The running attempt has the current spec."
    EDIT_PENDING = "EditPending", "An edit takes effect with the next attempt."
    COMPLETED = "Completed", "All stages are done."
    ATTEMPT_STARTED = "AttemptStarted", "A new attempt, with a Ray cluster of its own."
    WORKER_REPLACED = "WorkerReplaced", "A lost worker pod got a successor."
    RETRYING = "Retrying", "An attempt failed and another one follows after a pause."
