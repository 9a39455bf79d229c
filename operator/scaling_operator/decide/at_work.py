"""What is missing while an attempt is at work, and how is it shown?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from scaling_api.reasons import ConditionType, Failure, Reason

from . import conditions
from .conditions import Verdict
from .failure import known_in_s
from .outcome import Outcome, noted, sooner
from .pod_sets import pod_sets
from .stalled import event as stalled_event
from .stalled import stalled
from .types import (
    Action,
    AttemptRecord,
    CreateWorkers,
    DeletePods,
    EnsureAttempt,
    Event,
    Job,
    Memory,
    Observed,
    Trouble,
)
from .workers import WorkerPlan, counted, plan_workers, raised

_FAILURES = frozenset(str(failure) for failure in Failure)
# Of a node with many workers that is lost, some say enough.
_MAX_LOSS_EVENTS = 3


def keep_at_work(
    job: Job, observed: Observed, status: Mapping[str, Any], current: AttemptRecord, head_missing: bool, now: float
) -> Outcome:
    """Create and delete what the attempt's cluster lacks or has too much of; replace what was lost.

    `status` is what was persisted, the driver's reports included.
    """
    memory, sets, number = observed.memory, pod_sets(job.spec.cluster), current.number
    plan = plan_workers(sets, observed, job.name, number, now=now)
    head = observed.head(number)
    ready = conditions.cluster_ready(sets, head, plan.alive, plan.held_back, observed.refusal, now=now)
    if plan.let_go and ready.reason in _FAILURES:
        ready = replace(ready, message=f"{ready.message}; workers come when the head can start")
    running = conditions.running(head)
    verdicts = {
        ConditionType.CLUSTER_READY: ready,
        ConditionType.RUNNING: running,
        ConditionType.SUSPENDED: Verdict(False, Reason.ACTIVE, "The job is active."),
        ConditionType.UP_TO_DATE: conditions.up_to_date(current.digest in (None, observed.digest)),
        **stalled(status, memory, number, ready=ready.holds),
    }
    before = memory.conditions.get(ConditionType.CLUSTER_READY)
    told = [_replacement(loss.slot.key, loss.trouble) for loss in plan.losses if loss.trouble is not None]
    events = told[:_MAX_LOSS_EVENTS]
    if ready.reason in _FAILURES and (before is None or before.reason != ready.reason):
        events.append(Event("Warning", ready.reason, ready.message))
    events += stalled_event(memory, verdicts)
    memory = replace(
        memory,
        incarnations=raised(memory.incarnations, plan.losses),
        replaced=counted(memory.replaced, plan.losses),
    )
    phase = _phase(ready, running, number, memory)
    actions = _actions(observed, number, head_missing, plan)
    again_s = sooner(plan.look_again_s, *(known_in_s(pod, now=now) for pod in observed.pods))
    return Outcome(noted(memory, verdicts, now), phase, actions, events, again_s, plan.alive)


def _actions(observed: Observed, attempt: int, head_missing: bool, plan: WorkerPlan) -> list[Action]:
    ensure = EnsureAttempt(
        attempt,
        head=head_missing,
        service=attempt not in observed.services,
        policy=attempt not in observed.policies,
    )
    actions: list[Action] = []
    # First, because in a full quota what is to be created has room only when something has gone.
    if plan.delete:
        actions.append(DeletePods(tuple((pod.name, pod.uid) for pod in plan.delete)))
    if ensure.head or ensure.service or ensure.policy:
        actions.append(ensure)
    if plan.create:
        actions.append(CreateWorkers(attempt, plan.create))
    return actions


def _phase(ready: Verdict, running: Verdict, attempt: int, memory: Memory) -> str:
    if ready.holds and running.holds:
        return "Running"
    if attempt > 1 or any(memory.replaced.values()):
        return "Restarting"
    return "Pending" if ready.reason in _FAILURES else "Starting"


def _replacement(slot: str, trouble: Trouble) -> Event:
    return Event("Warning", Reason.WORKER_REPLACED, f"Worker {slot} is replaced: {trouble.message}.")
