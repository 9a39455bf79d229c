"""Which worker pods should there be?

Each group has as many slots as pods are wanted (`max`). A slot's pod is the one of its persisted incarnation. If that
pod is lost (ended, being taken away, vanished, or kept from starting for too long), the slot's incarnation is raised;
once that is persisted, the new pod is created, whether or not the old one is still terminating. A pod that did not
live long is replaced after a pause that grows with the slot's losses, so that a bad image or node is no storm. Slots
beyond `max` are emptied; one that is wanted again while its old pod still terminates gets another incarnation, which
is no loss. All slots are empty as long as there is no head that workers can come to (head_first).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scaling_api import names
from scaling_api.names import WorkerSlot

from .failure import why_ended
from .head_first import place_for_workers
from .pod_sets import PodSet, workers_among
from .types import Observed, PodView, Trouble
from .worker_start import hindrance

# From one creation in a slot to the next, once its first pod is lost; what lived longer is replaced at once.
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker that is to be replaced, and why it was lost; no trouble when the operator deleted it itself."""

    slot: WorkerSlot
    trouble: Trouble | None


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """`create` and `delete` hold for the persisted incarnations; `losses` raises some of them first.

    `held_back` says by group why a worker was lost whose successor has to wait. `let_go`: all slots are to be empty.
    """

    create: tuple[tuple[WorkerSlot, int], ...] = ()
    delete: tuple[PodView, ...] = ()
    losses: tuple[Loss, ...] = ()
    look_again_s: float | None = None
    alive: Mapping[str, tuple[PodView, ...]] = field(default_factory=dict)
    held_back: Mapping[str, Trouble] = field(default_factory=dict)
    let_go: bool = False


def plan_workers(sets: Sequence[PodSet], observed: Observed, job: str, attempt: int, *, now: float) -> WorkerPlan:
    """The plan for the workers of the current attempt."""
    groups = workers_among(sets)
    # By name, since names say attempt, slot and incarnation; what nobody asks for is surplus.
    pods = {pod.name: pod for pod in observed.workers(attempt)}
    incarnations, vanished = observed.memory.incarnations, observed.vanished
    head = observed.head(attempt)
    place = place_for_workers(head, now=now)
    if not place.may_stay:
        return WorkerPlan(delete=_not_going(pods), alive={group.name: () for group in groups}, let_go=True)
    create: list[tuple[WorkerSlot, int]] = []
    losses: list[Loss] = []
    pauses: list[float] = [place.look_again_s] if place.look_again_s is not None else []
    alive: dict[str, tuple[PodView, ...]] = {}
    held_back: dict[str, Trouble] = {}
    for group in groups:
        living: list[PodView] = []
        # A slot has lost no more workers than its group, nor more than it had before the present one.
        lost = observed.memory.replaced.get(group.name, 0)
        for slot in group.slots:
            incarnation = incarnations.get(slot.key, 0)
            name = names.worker_pod(job, attempt, slot, incarnation)
            pod = pods.pop(name, None)
            last = pod or vanished.get(name)
            if last is None:
                create.append((slot, incarnation))
            elif pod is not None and pod.is_alive:
                hindered = hindrance(pod, head, now=now)
                if hindered is not None and hindered.left_s <= 0:
                    losses.append(Loss(slot, hindered.trouble))
                    continue
                living.append(pod)
                pauses += [hindered.left_s] if hindered is not None else []
            elif last.uid in observed.released:
                losses.append(Loss(slot, None))
            elif (pause_s := _pause_s(last.created_at, min(incarnation, lost), now)) > 0:
                pauses.append(pause_s)
                held_back.setdefault(group.name, why_ended(last))
            else:
                losses.append(Loss(slot, why_ended(last)))
        alive[group.name] = tuple(living)
    return WorkerPlan(
        create=tuple(create) if place.may_come else (),
        delete=_not_going(pods),
        losses=tuple(losses),
        look_again_s=min(pauses, default=None),
        alive=alive,
        held_back=held_back,
    )


def _not_going(pods: Mapping[str, PodView]) -> tuple[PodView, ...]:
    return tuple(sorted((pod for pod in pods.values() if not pod.terminating), key=lambda pod: pod.name))


def raised(incarnations: Mapping[str, int], losses: Sequence[Loss]) -> dict[str, int]:
    """The incarnations after these losses."""
    slots = {loss.slot.key for loss in losses}
    return {**incarnations, **{key: incarnations.get(key, 0) + 1 for key in slots}}


def counted(replaced: Mapping[str, int], losses: Sequence[Loss]) -> dict[str, int]:
    """The groups' counts of lost workers after these losses; what the operator deleted itself is none."""
    lost = Counter(loss.slot.group for loss in losses if loss.trouble is not None)
    return {**replaced, **{group: replaced.get(group, 0) + count for group, count in lost.items()}}


def _pause_s(created_at: float, lost: int, now: float) -> float:
    """Seconds until the successor of a pod that was created then may come, the slot having lost `lost` before it."""
    if lost == 0:
        return 0.0
    pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(lost - 1, 10))
    return max(0.0, created_at + pause_s - now)
