"""The status of a ScalingJob: what a user reads, and what the operator must remember.

Two writers share it and never send each other's fields. The leader (field manager OPERATOR_MANAGER) owns
the life of the job: conditions, attempts, incarnations, worker groups. Whichever replica receives the
driver's report (PROGRESS_MANAGER) owns what happens inside: progress, stages, objective, accuracy, result. One
exception: when an attempt has ended, the leader takes back what its driver left standing as being at work, and fills
in what its last report would have said.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from scaling_api.base import Model
from scaling_api.constraints import MAX_INT64, KeyedBy

OPERATOR_MANAGER = "scaling-operator"
PROGRESS_MANAGER = "scaling-progress"

# Worker pods of a job, over all groups: each may need an entry in `incarnations`.
MAX_SLOTS = 4096
# Older attempts are dropped from the list; `attempt` and `failures` keep counting.
MAX_ATTEMPTS_KEPT = 10

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT(?!24)\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


def _is_time(text: str) -> str:
    try:
        if _RFC3339.fullmatch(text):
            datetime.fromisoformat(text)
            return text
    except ValueError:
        pass
    raise PydanticCustomError("time", "write a time of RFC 3339, such as 2026-01-31T12:00:00Z")


# The API server checks the formats of a schema as well: a status that is to be stored must keep to them.
Time = Annotated[
    str,
    StringConstraints(max_length=40),
    AfterValidator(_is_time),
    Field(json_schema_extra={"format": "date-time"}),
]
Int = Annotated[int, Field(le=MAX_INT64)]
Name = Annotated[str, StringConstraints(max_length=63)]
Sentence = Annotated[str, StringConstraints(max_length=1024)]


# Reports are complete in themselves. Merged field by field, a map that has become empty would turn into null.
_REPLACED_AS_A_WHOLE: JsonDict = {"x-kubernetes-map-type": "atomic"}


class Condition(Model):
    """A metav1.Condition."""

    type: Annotated[str, StringConstraints(min_length=1, max_length=63)] = Field(description="What it tells.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Annotated[str, StringConstraints(min_length=1, max_length=63)] = Field(description="Why, in one word.")
    message: Annotated[str, StringConstraints(max_length=2048)] = Field("", description="Why, and what helps.")
    last_transition_time: Time = Field(description="When its status last changed.")
    observed_generation: Int = Field(0, ge=0, description="The generation of the spec that it speaks of.")


class Attempt(Model):
    """One Ray cluster's life."""

    number: Annotated[Int, Field(ge=1)] = Field(description="1, 2, 3, …: the fencing token.")
    started_at: Time = Field(description="When it was decided.")
    ended_at: Time | None = Field(None, description="When it ended.")
    outcome: Literal["Succeeded", "Failed", "Suspended"] | None = Field(None, description="How it ended.")
    reason: Name | None = Field(None, description="Why it ended, in one word.")
    message: Sentence | None = Field(None, description="Why it ended, and what helps.")
    digest: Name | None = Field(None, description="Digest of what it runs; an edit of that waits for the next one.")


class WorkerGroupStatus(Model):
    """Worker pods of one group in the current attempt."""

    name: Name = Field(description="The group.")
    desired: Int = Field(ge=0, description="Pods wanted.")
    running: Int = Field(0, ge=0, description="Pods that exist and have not ended.")
    ready: Int = Field(0, ge=0, description="Pods whose Ray node is up.")
    replaced: Int = Field(0, ge=0, description="Pods replaced after a loss, in this attempt.")


class Progress(Model):
    """How far the current stage is."""

    stage: Name = Field(description="The stage at work.")
    percent: Annotated[float, Field(ge=0, le=100)] = Field(0.0, description="Of the stage's work.")
    epoch: Int | None = Field(None, ge=0, description="Epochs done.")
    epochs: Int | None = Field(None, ge=0, description="Epochs in all.")
    step: Int | None = Field(None, ge=0, description="Optimizer steps done.")
    steps: Int | None = Field(None, ge=0, description="Optimizer steps in all.")
    samples_per_second: float | None = Field(None, ge=0, description="Training samples per second, all workers.")
    eta_seconds: Int | None = Field(None, ge=0, description="Estimated time to the stage's end.")
    workers: Int | None = Field(None, ge=0, description="Training processes at work.")
    metrics: dict[Annotated[str, StringConstraints(max_length=63)], float] = Field(
        default_factory=dict, max_length=32, description="Latest metrics, e.g. trainLoss, valLoss."
    )
    checkpoint: Sentence | None = Field(None, description="The last committed checkpoint, relative to the run folder.")
    first_step_at: Time | None = Field(
        None,
        description="When this attempt's first optimizer step was done.",
    )
    stalled_since: Time | None = Field(
        None,
        description="Since when nothing has advanced although the driver runs; absent while something does.",
    )
    summary: Annotated[str, StringConstraints(max_length=120)] = Field("", description='For a table: "42% (3m left)".')
    updated_at: Time = Field(description="When the driver sent this.")


class StageStatus(Model):
    """One stage of the job."""

    name: Name = Field(description="analyze, train, evaluate, report.")
    state: Literal["Pending", "Running", "Succeeded", "Failed", "Reused"] = Field(
        description="Reused: finished in an earlier attempt or run, and nothing it depends on has changed."
    )
    started_at: Time | None = Field(None, description="When it started.")
    finished_at: Time | None = Field(None, description="When it ended.")
    message: Sentence | None = Field(None, description="What there is to say.")


class Artifact(Model):
    """Something the job made."""

    name: Name = Field(description="model, curves, metrics, report.")
    uri: Sentence = Field(description="Where it lies.")
    size_bytes: Int | None = Field(None, ge=0, description="Its size.")


class Result(Model):
    """What came out."""

    metrics: dict[Annotated[str, StringConstraints(max_length=63)], float] = Field(
        default_factory=dict,
        max_length=64,
        description="Test metrics by name, e.g. loss and accuracy. Those that are no numbers are left out.",
    )
    artifacts: Annotated[list[Artifact], KeyedBy("name")] = Field(
        default_factory=list, max_length=64, description="Addresses of what was made."
    )


class Objective(Model):
    """The metric by which the task, or the spec, tells the better of two models, and what it is now."""

    metric: Name = Field(description="Its name, as in result.metrics.")
    mode: Literal["max", "min"] = Field(description="Whether it should rise or fall.")
    split: Literal["validation", "test"] = Field(
        description="What it was measured on: while the job runs the latest validation, in the end the test data."
    )
    value: float | None = Field(None, description="The latest; absent when it is no number.")
    summary: Annotated[str, StringConstraints(max_length=100)] = Field(description='For a table: "accuracy 0.9712".')


class ProgressStatus(Model):
    """The part of the status that the driver's reports fill."""

    progress: Progress | None = Field(
        None, description="How far the current stage is.", json_schema_extra=_REPLACED_AS_A_WHOLE
    )
    stages: Annotated[list[StageStatus], KeyedBy("name")] = Field(
        default_factory=list, max_length=32, description="All stages, in order."
    )
    objective: Objective | None = Field(
        None, description="How good the model is so far.", json_schema_extra=_REPLACED_AS_A_WHOLE
    )
    accuracy: Annotated[str, StringConstraints(max_length=16)] | None = Field(
        None,
        description="Latest validation accuracy; in the end the test accuracy. Of classification alone; see objective.",
    )
    result: Result | None = Field(None, description="What came out.", json_schema_extra=_REPLACED_AS_A_WHOLE)
    reported_attempt: Int | None = Field(None, ge=1, description="The attempt that progress speaks of.")


class ScalingJobStatus(ProgressStatus):
    """The whole status."""

    phase: (
        Literal["Pending", "Starting", "Running", "Suspending", "Suspended", "Restarting", "Succeeded", "Failed"] | None
    ) = Field(None, description="The conditions in one word, for people; programs should read the conditions.")
    observed_generation: Int | None = Field(None, ge=0, description="The generation last acted upon.")
    conditions: Annotated[list[Condition], KeyedBy("type")] = Field(
        default_factory=list, max_length=16, description="What holds."
    )
    attempt: Int | None = Field(None, ge=1, description="The current attempt.")
    attempts: Annotated[list[Attempt], KeyedBy("number")] = Field(
        default_factory=list, max_length=MAX_ATTEMPTS_KEPT, description="The latest attempts, oldest first."
    )
    failures: Int = Field(0, ge=0, description="Attempts that count against runPolicy.backoffLimit.")
    incarnations: dict[Annotated[str, StringConstraints(max_length=63)], Int] = Field(
        default_factory=dict,
        max_length=MAX_SLOTS,
        description='How often the worker of a slot, "group-index", got a successor in this attempt, after a loss or '
        "as it was wanted again while it still terminated; 0 is left out.",
    )
    worker_groups: Annotated[list[WorkerGroupStatus], KeyedBy("name")] = Field(
        default_factory=list, max_length=16, description="Workers by group."
    )
    workers: Annotated[str, StringConstraints(max_length=32)] | None = Field(
        None, description='For a table: "ready/desired".'
    )
    started_at: Time | None = Field(None, description="When the first attempt began.")
    finished_at: Time | None = Field(None, description="When the job ended.")
    active_since: Time | None = Field(
        None,
        description="When it last became active; absent while suspended or ended.",
    )
    active_seconds: Annotated[float, Field(ge=0)] = Field(0.0, description="Time it was active before activeSince.")
