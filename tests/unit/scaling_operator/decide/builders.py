"""Observations to decide about: a job of one group, its pods, and what was persisted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from scaling_api import names
from scaling_api.driver import CONTAINER_DRIVER, CONTAINER_RAY
from scaling_api.names import WorkerSlot
from scaling_operator.decide import Decision, Job, Observed, decide
from scaling_operator.decide.attempts import begin
from scaling_operator.decide.status import remember, render
from scaling_operator.decide.types import ContainerView, Memory, PodView
from tests.unit.scaling_operator import builders

NOW = 1_800_000_000.0
NAME = "mnist"
DIGEST = "spec-1"

State = Literal["waiting", "running", "terminated"]


def job(*, workers: int = 2, minimum: int = 1, invalid: str | None = None, **run_policy: Any) -> Job:
    """A job with `workers` workers in a group named cpu."""
    groups = [{"name": "cpu", "min": minimum, "max": workers}]
    spec = builders.job({"cluster": {"workers": groups}, "runPolicy": run_policy}).spec
    return Job("team", NAME, spec, invalid)


def container(name: str, state: State = "running", **fields: Any) -> ContainerView:
    """A container; one that runs has done so since NOW - 10."""
    if state == "running":
        fields.setdefault("started_at", NOW - 10)
    return ContainerView(name=name, state=state, **fields)


def head(
    *, attempt: int = 1, driver: ContainerView | None = None, ray: ContainerView | None = None, **fields: Any
) -> PodView:
    """A running head pod, with `fields` laid over it."""
    name = names.head_pod(NAME, attempt)
    views = (driver or container(CONTAINER_DRIVER), ray or container(CONTAINER_RAY))
    values: dict[str, Any] = {
        "phase": "Running",
        "ready": True,
        "created_at": NOW - 60,
        "scheduled_at": NOW - 59,
        "containers": {view.name: view for view in views},
    } | fields
    return PodView(
        name=name, uid=f"uid-{name}", attempt=attempt, role=names.ROLE_HEAD, slot=None, incarnation=0, **values
    )


def worker(index: int, *, incarnation: int = 0, attempt: int = 1, group: str = "cpu", **fields: Any) -> PodView:
    """A running worker pod, with `fields` laid over it."""
    slot = WorkerSlot(group, index)
    name = names.worker_pod(NAME, attempt, slot, incarnation)
    values: dict[str, Any] = {
        "phase": "Running",
        "ready": True,
        "created_at": NOW - 60,
        "scheduled_at": NOW - 59,
        "containers": {CONTAINER_RAY: container(CONTAINER_RAY)},
    } | fields
    return PodView(
        name=name,
        uid=f"uid-{name}",
        attempt=attempt,
        role=names.ROLE_WORKER,
        slot=slot,
        incarnation=incarnation,
        **values,
    )


def ended(name: str, exit_code: int, **fields: Any) -> ContainerView:
    """A container that has ended."""
    return container(name, "terminated", exit_code=exit_code, **fields)


def at_work(**changes: Any) -> Memory:
    """What stands in the status once the first attempt has begun, a minute ago."""
    return replace(begin(Memory(), digest=DIGEST, now=NOW - 60), **changes)


def observed(pods: Iterable[PodView] = (), *, memory: Memory | None = None, **fields: Any) -> Observed:
    """The first attempt at work, with its Service and policy."""
    values: dict[str, Any] = {
        "generation": 1,
        "digest": DIGEST,
        "services": frozenset({1}),
        "policies": frozenset({1}),
    } | fields
    return Observed(memory=memory if memory is not None else at_work(), pods=tuple(pods), **values)


def decided(of: Job, seen: Observed, *, now: float = NOW) -> Decision:
    """The decision, with a persisted status that says what `seen.memory` does."""
    return decide(of, seen, persisted(seen.memory), now=now)


def persisted(memory: Memory) -> Mapping[str, Any]:
    """The status that `memory` is the reading of."""
    return render(memory, phase="Running", generation=1, groups=[], workers="0/2")


def after(decision: Decision) -> Memory:
    """What is remembered once the decision's status is written."""
    assert decision.status is not None
    return remember(decision.status)


def condition(decision: Decision, kind: str) -> tuple[str, str]:
    """Status and reason of a condition."""
    found = after(decision).conditions[kind]
    return found.status, found.reason
