"""Which workers there should be."""

from __future__ import annotations

import random
from typing import Any

import pytest

from scaling_api.driver import CONTAINER_DRIVER, CONTAINER_RAY
from scaling_api.names import WorkerSlot
from scaling_api.reasons import Failure
from scaling_operator.decide.head_first import LET_GO_AFTER_S
from scaling_operator.decide.head_loss import START_LIMIT_S
from scaling_operator.decide.pod_sets import pod_sets
from scaling_operator.decide.types import Observed, PodView
from scaling_operator.decide.workers import FIRST_PAUSE_S, WorkerPlan, counted, plan_workers, raised

from .builders import NAME, NOW, at_work, container, ended, head, job, observed, worker

RUNNING_HEAD = head()


def _plan(seen: Observed, *, workers: int = 2, now: float = NOW) -> WorkerPlan:
    return plan_workers(pod_sets(job(workers=workers).spec.cluster), seen, NAME, 1, now=now)


def _seen(
    *pods: PodView,
    incarnations: dict[str, int] | None = None,
    lost: int | None = None,
    of_head: PodView | None = RUNNING_HEAD,
    **fields: Any,
) -> Observed:
    """All incarnations were losses, unless `lost` says how many of the group's were."""
    replaced = {"cpu": sum((incarnations or {}).values()) if lost is None else lost}
    seen = pods if of_head is None else (of_head, *pods)
    return observed(seen, memory=at_work(incarnations=incarnations or {}, replaced=replaced), **fields)


def _lost(plan: WorkerPlan) -> list[tuple[str, str | None]]:
    return [(loss.slot.key, loss.trouble.reason if loss.trouble is not None else None) for loss in plan.losses]


def test_all_slots_are_filled() -> None:
    plan = _plan(_seen())
    assert plan.create == ((WorkerSlot("cpu", 0), 0), (WorkerSlot("cpu", 1), 0))
    assert not plan.delete
    assert not plan.losses


def test_with_all_there_nothing_is_done_whatever_their_order() -> None:
    pods = [worker(index) for index in range(20)]
    random.Random(1).shuffle(pods)
    plan = _plan(_seen(*pods), workers=20)
    assert (plan.create, plan.delete, plan.losses, plan.look_again_s) == ((), (), (), None)
    assert [pod.slot.index for pod in plan.alive["cpu"] if pod.slot] == list(range(20))


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param(worker(1, phase="Failed"), id="failed"),
        pytest.param(
            worker(1, phase="Succeeded", containers={CONTAINER_RAY: ended(CONTAINER_RAY, 0)}), id="ended by itself"
        ),
        pytest.param(worker(1, terminating=True), id="is being taken away"),
    ],
)
def test_a_lost_worker_is_replaced_once_that_is_persisted(lost: PodView) -> None:
    first = _plan(_seen(worker(0), lost))
    assert first.create == ()
    assert [loss.slot for loss in first.losses] == [WorkerSlot("cpu", 1)]
    incarnations = raised({}, first.losses)
    assert incarnations == {"cpu-1": 1}
    second = _plan(_seen(worker(0), lost, incarnations=incarnations))
    assert second.create == ((WorkerSlot("cpu", 1), 1),)
    assert second.losses == ()
    # What is left of the old one goes, unless it goes already.
    assert second.delete == (() if lost.terminating else (lost,))
    third = _plan(_seen(worker(0), worker(1, incarnation=1), incarnations=incarnations))
    assert (third.create, third.delete, third.losses) == ((), (), ())


def test_a_vanished_worker_is_lost() -> None:
    plan = _plan(_seen(worker(0), vanished={"mnist-1-cpu-1-0": worker(1, phase="Failed", reason="Evicted")}))
    assert plan.create == ()
    assert _lost(plan) == [("cpu-1", Failure.EVICTED)]


@pytest.mark.parametrize(
    ("later_s", "lost"),
    [
        pytest.param(-1.0, False, id="just before the limit"),
        pytest.param(0.0, True, id="at the limit"),
        pytest.param(1.0, True, id="after it"),
    ],
)
def test_a_worker_that_does_not_start_is_lost_in_the_end(later_s: float, lost: bool) -> None:
    pulling = {CONTAINER_RAY: container(CONTAINER_RAY, "waiting", reason="ErrImagePull", message="no route")}
    stuck = worker(1, phase="Pending", ready=False, containers=pulling, obstructed_since=NOW - 1)
    began = head(ray=container(CONTAINER_RAY, started_at=NOW))
    now = NOW + START_LIMIT_S + later_s
    plan = _plan(_seen(worker(0), stuck, of_head=began), now=now)
    assert _lost(plan) == ([("cpu-1", Failure.IMAGE_PULL_FAILED)] if lost else [])
    assert plan.look_again_s == (None if lost else 1.0)
    # Once that is persisted, another one is created and this one goes.
    replaced = _plan(_seen(worker(0), stuck, of_head=began, incarnations={"cpu-1": 1}), now=now)
    assert (replaced.create, replaced.delete) == (((WorkerSlot("cpu", 1), 1),), (stuck,))


def test_slots_beyond_max_are_emptied_from_the_highest() -> None:
    plan = _plan(_seen(*(worker(index) for index in range(4))), workers=2)
    assert [pod.name for pod in plan.delete] == ["mnist-1-cpu-2-0", "mnist-1-cpu-3-0"]
    assert plan.losses == ()


def test_a_slot_that_is_wanted_again_does_not_wait_for_its_old_pod_which_is_no_loss() -> None:
    going = worker(1, terminating=True, created_at=NOW)
    plan = _plan(_seen(worker(0), going, released={going.uid}, incarnations={"cpu-1": 0}))
    assert _lost(plan) == [("cpu-1", None)]
    assert not plan.held_back
    assert (raised({}, plan.losses), counted({}, plan.losses)) == ({"cpu-1": 1}, {})
    # Nor does it make the first loss after it wait.
    died = worker(1, incarnation=3, phase="Failed", created_at=NOW)
    plan = _plan(_seen(worker(0), died, incarnations={"cpu-1": 3}, lost=0))
    assert [loss.trouble is not None for loss in plan.losses] == [True]
    assert counted({"cpu": 1, "gpu": 2}, plan.losses) == {"cpu": 2, "gpu": 2}
    # One that was to be deleted but lives is as good as any.
    assert _plan(_seen(worker(0), worker(1), released={worker(1).uid})).losses == ()


def test_workers_of_other_attempts_do_not_count() -> None:
    plan = _plan(_seen(worker(0, attempt=2), worker(1)))
    assert plan.create == ((WorkerSlot("cpu", 0), 0),)


@pytest.mark.parametrize(
    ("incarnation", "pause_s"),
    [
        pytest.param(0, 0.0, id="the first loss is made good at once"),
        pytest.param(1, FIRST_PAUSE_S, id="the second one may be a bad node"),
        pytest.param(2, 2 * FIRST_PAUSE_S, id="the third one waits longer"),
        pytest.param(30, 300.0, id="but never longer than five minutes"),
    ],
)
def test_workers_that_die_young_are_replaced_slowly(incarnation: int, pause_s: float) -> None:
    incarnations = {"cpu-1": incarnation} if incarnation else {}
    for gone in (
        _seen(worker(0), worker(1, incarnation=incarnation, phase="Failed", created_at=NOW), incarnations=incarnations),
        _seen(
            worker(0), incarnations=incarnations, vanished={f"mnist-1-cpu-1-{incarnation}": worker(1, created_at=NOW)}
        ),
    ):
        if pause_s:
            early = _plan(gone, now=NOW + pause_s - 1)
            assert (early.losses, early.create, early.look_again_s) == ((), (), 1.0)
            assert list(early.held_back) == ["cpu"]
        for now in (NOW + pause_s, NOW + pause_s + 1):
            assert [loss.slot.key for loss in _plan(gone, now=now).losses] == ["cpu-1"]


UNPLACED = head(phase="Pending", ready=False, scheduled_at=None, unschedulable="no room", containers={})
PLACED = head(phase="Pending", ready=False, containers={})


def _refused(since: float) -> PodView:
    """A head whose image cannot be pulled since then."""
    pulling = container(CONTAINER_RAY, "waiting", reason="ErrImagePull")
    waits = container(CONTAINER_DRIVER, "waiting", reason="PodInitializing")
    return head(phase="Pending", ready=False, ray=pulling, driver=waits, obstructed_since=since)


_RUNS = {view.name: view for view in (container(CONTAINER_DRIVER), container(CONTAINER_RAY))}
_WITH_ANOTHER = head(
    ready=False,
    containers=_RUNS | {"proxy": container("proxy", "waiting", reason="ErrImagePull")},
    obstructed_since=NOW - 900,
)


class TestHeadFirst:
    """Workers hold no nodes for a head that cannot start."""

    @pytest.mark.parametrize(
        ("of_head", "come"),
        [
            pytest.param(None, False, id="no head yet"),
            pytest.param(UNPLACED, False, id="no node takes it"),
            pytest.param(PLACED, True, id="it has its node, and pulls its image as they do"),
            pytest.param(RUNNING_HEAD, True, id="it runs"),
            pytest.param(
                head(scheduled_at=None),
                True,
                id="it runs, and nobody says since when it has its node (virtual kubelets)",
            ),
            pytest.param(_refused(NOW), False, id="its image has just been refused"),
            pytest.param(_WITH_ANOTHER, True, id="it runs, and a container that somebody added does not"),
        ],
    )
    def test_when_they_come(self, of_head: PodView | None, come: bool) -> None:
        plan = _plan(_seen(of_head=of_head))
        assert bool(plan.create) is come
        assert plan.alive == {"cpu": ()}

    @pytest.mark.parametrize(
        ("later_s", "stay"),
        [
            pytest.param(-1.0, True, id="just before the limit"),
            pytest.param(0.0, False, id="at the limit"),
            pytest.param(1.0, False, id="after it"),
        ],
    )
    def test_how_long_they_stay_when_its_image_cannot_be_pulled(self, later_s: float, stay: bool) -> None:
        pods = (worker(0), worker(1, phase="Failed"), worker(2, terminating=True))
        plan = _plan(_seen(*pods, of_head=_refused(NOW)), workers=3, now=NOW + LET_GO_AFTER_S + later_s)
        assert [pod.name for pod in plan.delete] == ([] if stay else ["mnist-1-cpu-0-0", "mnist-1-cpu-1-0"])
        assert (plan.let_go, plan.look_again_s) == (not stay, 1.0 if stay else None)
        # Who is to go is no loss.
        assert [loss.slot.index for loss in plan.losses] == ([1, 2] if stay else [])
        assert plan.create == ()

    def test_they_come_again_without_being_lost(self) -> None:
        going = (worker(0, terminating=True), worker(1, terminating=True))
        released = {pod.uid for pod in going}
        plan = _plan(_seen(*going, released=released))
        assert _lost(plan) == [("cpu-0", None), ("cpu-1", None)]
        assert _plan(_seen(released=released)).create == ((WorkerSlot("cpu", 0), 0), (WorkerSlot("cpu", 1), 0))
