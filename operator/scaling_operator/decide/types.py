"""The values that policies take and give: what was observed, what is remembered, what should be done.

An observation holds only what policies need. What is remembered is what the leader persisted in the job's
status. A decision is a value too; the executor carries it out and the controller writes its status.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from scaling_api.driver import CONTAINER_DRIVER, CONTAINER_RAY
from scaling_api.names import ROLE_HEAD, WorkerSlot, head_pod
from scaling_api.reasons import ConditionType, Failure
from scaling_api.spec import ScalingJobSpec


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something is wrong: the reason in one word, and a sentence that says why and what helps.

    `blameless` means that the cluster took the pod away for reasons of its own: that says nothing about the job.
    """

    reason: Failure
    message: str
    blameless: bool = False


@dataclass(frozen=True, slots=True)
class ContainerView:
    """One container's state. `exit_code` is None until it has terminated."""

    name: str
    state: Literal["waiting", "running", "terminated"]
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    restarts: int = 0
    # When its present run began; None unless it runs.
    started_at: float | None = None
    # Of one that has terminated: when its last run began and ended.
    ran: tuple[float, float] | None = None
    # False while a probe of it fails.
    ready: bool = True
    # False until its startup probe has had an answer, if it has one.
    is_up: bool = True


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod of the job. Times are seconds since the epoch, by the API server's clock."""

    name: str
    uid: str
    attempt: int
    role: str
    slot: WorkerSlot | None
    incarnation: int
    phase: str
    ready: bool = False
    # Since when it is not ready; None while it is, and when nobody has judged it yet.
    unready_since: float | None = None
    terminating: bool = False
    created_at: float = 0.0
    # When it got its node; None while it has none.
    scheduled_at: float | None = None
    # False while its volumes or network are being prepared, and on older kubelets while its image is pulled.
    is_set_up: bool = True
    # While it terminates: when its grace period is over.
    gone_by: float | None = None
    reason: str = ""
    message: str = ""
    # The reason of a true DisruptionTarget condition: who takes the pod away.
    disruption: str = ""
    # The scheduler's message while it finds no node.
    unschedulable: str = ""
    # Of a pod that is gone: whether it may have changed, unseen, before it went.
    end_unseen: bool = False
    # Since when a container of it was seen, at each look, to be kept from starting; None when none is.
    obstructed_since: float | None = None
    # Since when a head's driver was seen, at each look, not to answer its kubelet; None when it does.
    silent_since: float | None = None
    containers: Mapping[str, ContainerView] = field(default_factory=dict)

    @property
    def is_head(self) -> bool:
        """Whether it is an attempt's head."""
        return self.role == ROLE_HEAD

    @property
    def is_over(self) -> bool:
        """Whether all its containers have ended for good."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def is_alive(self) -> bool:
        """Whether its own container runs, or may run yet; one that was put beside it may keep the pod from ending."""
        main = self.containers.get(CONTAINER_DRIVER if self.is_head else CONTAINER_RAY)
        has_ended = self.is_over or (main is not None and main.state == "terminated")
        return not has_ended and not self.terminating


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition as it stands in the status, or as it was judged just now."""

    status: Literal["True", "False"]
    reason: str
    message: str
    since: str
    # That of the spec which it was judged for; None when that is the one observed now.
    generation: int | None = None


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt as it stands in the status. Times are seconds since the epoch."""

    number: int
    started_at: float
    ended_at: float | None = None
    outcome: str | None = None
    reason: str | None = None
    message: str | None = None
    # Digest of the frozen part of the spec that it runs.
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What the leader persisted: the only state there is besides the objects themselves."""

    attempts: tuple[AttemptRecord, ...] = ()
    failures: int = 0
    incarnations: Mapping[str, int] = field(default_factory=dict)
    # Workers lost in the attempt, by group. Incarnations count more: scaling down and up again raises them too.
    replaced: Mapping[str, int] = field(default_factory=dict)
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    started_at: float | None = None
    finished_at: float | None = None
    active_since: float | None = None
    active_seconds: float = 0.0

    @property
    def last(self) -> AttemptRecord | None:
        """The latest attempt, ended or not."""
        return self.attempts[-1] if self.attempts else None

    @property
    def current(self) -> AttemptRecord | None:
        """The attempt that has not ended, if any."""
        return self.last if self.last is not None and self.last.ended_at is None else None

    @property
    def has_ended(self) -> bool:
        """Whether the job has Succeeded or Failed, for good."""
        return self.holds(ConditionType.SUCCEEDED) or self.holds(ConditionType.FAILED)

    def holds(self, kind: ConditionType) -> bool:
        """Whether that condition is True."""
        found = self.conditions.get(kind)
        return found is not None and found.status == "True"

    def active_s(self, now: float) -> float:
        """Seconds for which the job has been active."""
        running_s = now - self.active_since if self.active_since is not None else 0.0
        return self.active_seconds + max(0.0, running_s)


@dataclass(frozen=True, slots=True)
class Observed:
    """The job's surroundings at one moment.

    `vanished` are pods that were there and are gone, by name, as they were last seen; `released` are uids of pods that
    the operator has deleted and that may still terminate. `services` and `policies` are attempts whose Service or
    NetworkPolicy exists. `refusal` is what the API server last said to a create that it refused for good. `finished`
    is the attempt whose driver has reported its result. `unusable` are attempts that cannot go on, with a sentence
    saying why.
    """

    generation: int
    memory: Memory
    digest: str
    pods: tuple[PodView, ...] = ()
    vanished: Mapping[str, PodView] = field(default_factory=dict)
    released: Set[str] = frozenset()
    services: frozenset[int] = frozenset()
    policies: frozenset[int] = frozenset()
    refusal: str | None = None
    finished: int | None = None
    unusable: Mapping[int, str] = field(default_factory=dict)

    def head(self, attempt: int) -> PodView | None:
        """The attempt's head pod, if it exists."""
        return next((pod for pod in self.pods if pod.attempt == attempt and pod.is_head), None)

    def last_head(self, job: str, attempt: int) -> PodView | None:
        """The attempt's head pod as it was last seen, gone or not; `job` is the job's name."""
        return self.head(attempt) or self.vanished.get(head_pod(job, attempt))

    def workers(self, attempt: int) -> list[PodView]:
        """The attempt's worker pods, all incarnations."""
        return [pod for pod in self.pods if pod.attempt == attempt and not pod.is_head]


@dataclass(frozen=True, slots=True)
class EnsureAttempt:
    """Create what is missing of an attempt's objects, workers apart."""

    attempt: int
    head: bool
    service: bool
    policy: bool


@dataclass(frozen=True, slots=True)
class CreateWorkers:
    """Create these pods: slot and incarnation, both persisted."""

    attempt: int
    pods: tuple[tuple[WorkerSlot, int], ...]


@dataclass(frozen=True, slots=True)
class DeletePods:
    """Delete these pods, by name and uid, with the grace periods of their own."""

    pods: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class DeleteAttempt:
    """Delete an attempt's Secret, NetworkPolicy and Service."""

    attempt: int


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Delete the job itself; its objects follow by their owner references."""


Action: TypeAlias = EnsureAttempt | CreateWorkers | DeletePods | DeleteAttempt | DeleteJob


@dataclass(frozen=True, slots=True)
class Event:
    """Something a person would want to know, told once the status that shows it is written."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What should be done now. `status` holds the leader's fields, as JSON; None means: leave it as it is.

    `urgent` says whether the status shows something that people or we ourselves wait for; other changes may
    be written later. `look_again_s` is when time alone will change the decision.
    """

    actions: tuple[Action, ...] = ()
    status: Mapping[str, Any] | None = None
    urgent: bool = False
    events: tuple[Event, ...] = ()
    look_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """The job as its user wrote it."""

    namespace: str
    name: str
    spec: ScalingJobSpec
    # A sentence when the spec cannot be run.
    invalid: str | None = None
