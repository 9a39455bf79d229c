"""The contract between the operator and the driver: how one starts, ends and answers the other.

The driver posts ProgressReports over HTTPS and ends with an exit code that says what the operator should do. Its
termination message says what went wrong, a Termination, or with SUCCEEDED what came out: its last ProgressReport,
which so arrives although the operator was away when it was posted.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any, Literal

from pydantic import ConfigDict, Field

from scaling_api.base import Model
from scaling_api.status import Objective, ProgressStatus


class ExitCode(IntEnum):
    """How a driver ends. Any code that is not listed is a failure worth another attempt."""

    SUCCEEDED = 0
    # sysexits.h EX_CONFIG: what is wrong is in the user's spec, code or data; another attempt meets it again.
    REFUSED = 78
    # sysexits.h EX_UNAVAILABLE: Ray's own processes on the head do not answer; another head's will.
    RAY_SILENT = 69
    # sysexits.h EX_TEMPFAIL: stopped on request (SIGTERM) after saving a checkpoint.
    STOPPED = 75


class Termination(Model):
    """What a driver that did not succeed leaves in its termination message, as JSON."""

    reason: str = Field(max_length=63, description="One of reasons.Failure, in one word.")
    message: str = Field(max_length=1024, description="One sentence: what is wrong and what helps.")


class ProgressReport(ProgressStatus):
    """The body of POST .../progress: the driver's part of the status."""

    attempt: int = Field(ge=1, description="The sender's attempt; a report of another one is refused.")

    def to_status(self) -> dict[str, Any]:
        """The fields of the status that it fills, as JSON; `reportedAttempt` is the attempt that was checked."""
        fields = self.model_dump(
            mode="json",
            by_alias=True,
            exclude_none=True,
            include=set(ProgressStatus.model_fields) - {"reported_attempt"},
        )
        if self.objective is None and self.accuracy is not None:
            # A driver of 0.1.0 knows classification alone.
            split: Literal["validation", "test"] = "validation" if self.result is None else "test"
            summary, value = f"accuracy {self.accuracy}", _number(self.accuracy)
            said = Objective(metric="accuracy", mode="max", split=split, value=value, summary=summary)
            fields["objective"] = said.to_json_dict()
        # Applying an empty map where there was a full one leaves null behind, which the CRD refuses; absent is right.
        return {**_without_empty(fields), "reportedAttempt": self.attempt}


class WorkerBounds(Model):
    """How many pods a worker group is to have, which may be edited while the job runs."""

    # What a later operator says beside it is not for this driver.
    model_config = ConfigDict(extra="ignore")

    name: str = Field(description="The group.")
    min: int = Field(ge=0, description="Pods without which training does not start.")
    max: int = Field(ge=0, description="Pods to run.")


class ProgressAnswer(Model):
    """The body of an answer to a report. A report that was taken is answered with the bounds of the present spec."""

    model_config = ConfigDict(extra="ignore")

    message: str = Field("", description="Why the report was not taken, in one sentence.")
    workers: list[WorkerBounds] = Field(default_factory=list, description="The worker groups' bounds, if known.")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    """`fields` without empty maps and lists, at any depth of maps."""
    inner = {key: _without_empty(value) if isinstance(value, dict) else value for key, value in fields.items()}
    return {key: value for key, value in inner.items() if value not in ({}, [])}


def progress_path(namespace: str, job: str) -> str:
    """Where a driver posts its reports."""
    return f"/v1/namespaces/{namespace}/scalingjobs/{job}/progress"


# Requests of the driver's container, measured in training: about 450 MiB and little CPU. It has the head's limits.
DRIVER_REQUESTS = {"cpu": "100m", "memory": "512Mi"}

# The audience of the token that a driver shows, so that it is good for nothing else.
TOKEN_AUDIENCE = "scaling.dev/operator"

# Containers, so that a status can be read by name.
CONTAINER_RAY = "ray"
CONTAINER_DRIVER = "driver"

# Environment of the driver container.
ENV_SPEC = "SCALING_SPEC"  # path of the job's manifest as the operator resolved it (JSON)
ENV_RUN_DIR = "SCALING_RUN_DIR"  # the run folder: a path or an fsspec URI
ENV_STORAGE_ROOT = "SCALING_STORAGE_ROOT"  # what resumeFrom is relative to
ENV_ATTEMPT = "SCALING_ATTEMPT"
ENV_PROGRESS_URL = "SCALING_PROGRESS_URL"
ENV_PROGRESS_CA = "SCALING_PROGRESS_CA"  # path of the CA bundle, re-read at every request
ENV_PROGRESS_TOKEN = "SCALING_PROGRESS_TOKEN"  # path of the projected token, re-read at every request
ENV_RAY_ADDRESS = "RAY_ADDRESS"  # host:port of the GCS; absent: start Ray on this machine

# Paths in the pods.
STORAGE_MOUNT = "/scaling/storage"
CONFIG_MOUNT = "/scaling/config"  # manifest.json and ca.crt, from the attempt's Secret (driver container only)
TOKEN_MOUNT = "/scaling/token"  # the projected token (driver container only)
HOME = "/home/scaling"  # the user's home in every container: writable, empty, gone with the pod
TERMINATION_LOG = "/dev/termination-log"
# Kubelets keep no more of a termination message: of a longer one the end, which is no JSON any more.
MAX_TERMINATION_BYTES = 4096
SECRET_KEY_RAY_TOKEN = "ray-token"
SECRET_KEY_MANIFEST = "manifest.json"
SECRET_KEY_CA = "ca.crt"
SECRET_KEY_TEMPLATES = "templates.json"

# A custom Ray resource of worker nodes: one unit for each training process that a pod has room for.
RAY_RESOURCE_SLOT = "slot"

PORT_GCS = 6379
PORT_DASHBOARD = 8265
PORT_CLIENT = 10001
PORT_METRICS = 8080  # of the driver
HEALTH_PATH = "/healthz"

# How often a driver reports at most, apart from a change of stage.
PROGRESS_INTERVAL_S = 10.0
