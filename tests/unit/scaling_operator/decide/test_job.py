"""The composition: what follows from what, step by step as statuses are persisted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from scaling_api.driver import CONTAINER_DRIVER, CONTAINER_RAY, ExitCode
from scaling_api.names import WorkerSlot
from scaling_api.reasons import ConditionType, Failure, Reason
from scaling_operator.decide import Decision, decide
from scaling_operator.decide.clean_up import FOLLOWS_ITS_HEAD_S
from scaling_operator.decide.head_first import LET_GO_AFTER_S
from scaling_operator.decide.head_loss import GIVE_UP_ON_HEAD_S
from scaling_operator.decide.types import (
    Action,
    CreateWorkers,
    DeleteAttempt,
    DeleteJob,
    DeletePods,
    EnsureAttempt,
    Memory,
    PodView,
)

from .builders import NOW, after, at_work, condition, container, decided, ended, head, job, observed, worker

A = TypeVar("A", bound=Action)

NOTHING: dict[str, Any] = {"services": frozenset[int](), "policies": frozenset[int]()}


def _only(actions: Sequence[Action], kind: type[A]) -> list[A]:
    return [action for action in actions if isinstance(action, kind)]


def _judged_for(decision: Decision, kind: str) -> int | None:
    """The generation that a condition speaks of."""
    return after(decision).conditions[kind].generation


def _phase(decision: Decision) -> str:
    assert decision.status is not None
    return str(decision.status["phase"])


def _reasons(decision: Decision) -> list[str]:
    return [event.reason for event in decision.events]


def test_an_attempt_is_persisted_before_anything_is_created() -> None:
    first = decide(job(), observed(memory=Memory(), **NOTHING), {}, now=NOW)
    assert first.actions == ()
    assert first.urgent
    assert first.status is not None
    assert (first.status["attempt"], _phase(first)) == (1, "Starting")
    assert _reasons(first) == [Reason.ATTEMPT_STARTED]
    second = decided(job(), observed(memory=after(first), **NOTHING))
    assert second.actions == (EnsureAttempt(1, head=True, service=True, policy=True),)
    assert second.events == ()
    unplaced = head(phase="Pending", ready=False, scheduled_at=None, containers={})
    assert decided(job(), observed([unplaced], memory=after(second))).actions == ()
    placed = replace(unplaced, scheduled_at=NOW)
    third = decided(job(), observed([placed], memory=after(second)))
    assert third.actions == (CreateWorkers(1, ((WorkerSlot("cpu", 0), 0), (WorkerSlot("cpu", 1), 0))),)
    assert second.status == third.status, "nothing to write"


def test_with_everything_up_it_is_running_and_rests() -> None:
    decision = decided(job(), observed([head(), worker(0), worker(1)]))
    assert decision.actions == ()
    assert decision.look_again_s is None
    assert _phase(decision) == "Running"
    assert condition(decision, ConditionType.CLUSTER_READY) == ("True", Reason.CLUSTER_READY)
    assert condition(decision, ConditionType.RUNNING) == ("True", Reason.DRIVER_RUNNING)


def test_deciding_again_changes_nothing() -> None:
    seen = observed([head(), worker(0), worker(1)])
    first = decided(job(), seen)
    assert first.status is not None
    again = decide(job(), replace(seen, memory=after(first)), first.status, now=NOW + 60)
    assert again.status == first.status
    assert not again.urgent


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        pytest.param(
            head(phase="Pending", ready=False, scheduled_at=None, unschedulable="0/3 nodes", containers={}),
            Failure.UNSCHEDULABLE,
            id="no node takes it",
        ),
        pytest.param(
            head(
                phase="Pending",
                ready=False,
                ray=container(CONTAINER_RAY, "waiting", reason="ImagePullBackOff"),
                driver=container(CONTAINER_DRIVER, "waiting"),
                obstructed_since=NOW - LET_GO_AFTER_S,
            ),
            Failure.IMAGE_PULL_FAILED,
            id="its image cannot be pulled",
        ),
    ],
)
def test_workers_are_let_go_of_when_the_head_cannot_start_and_the_status_says_so(
    waiting: PodView, reason: Failure
) -> None:
    decision = decided(job(), observed([waiting, worker(0), worker(1)]))
    assert len(_only(decision.actions, DeletePods)[0].pods) == 2
    assert condition(decision, ConditionType.CLUSTER_READY) == ("False", reason)
    assert "workers come when the head can start" in after(decision).conditions[ConditionType.CLUSTER_READY].message
    assert after(decision).incarnations == {}


def test_a_lost_service_comes_back() -> None:
    decision = decided(job(), observed([head(), worker(0), worker(1)], services=frozenset()))
    assert decision.actions == (EnsureAttempt(1, head=False, service=True, policy=False),)


def test_success() -> None:
    seen = observed([head(driver=ended(CONTAINER_DRIVER, 0)), worker(0)])
    decision = decided(job(), seen)
    assert _phase(decision) == "Succeeded"
    assert condition(decision, ConditionType.SUCCEEDED) == ("True", Reason.COMPLETED)
    assert condition(decision, ConditionType.RUNNING) == ("False", Reason.ENDED)
    assert _reasons(decision) == [Reason.COMPLETED]
    cleaning = decided(job(), replace(seen, memory=after(decision)))
    assert len(_only(cleaning.actions, DeletePods)[0].pods) == 2
    assert _only(cleaning.actions, DeleteAttempt) == [DeleteAttempt(1)]
    assert cleaning.events == ()


def test_a_lost_head_leads_to_the_next_attempt() -> None:
    seen = observed([head(phase="Failed", driver=ended(CONTAINER_DRIVER, 1)), worker(0)])
    lost = decided(job(), seen)
    memory = after(lost)
    assert (_phase(lost), memory.failures, memory.current) == ("Restarting", 1, None)
    assert _reasons(lost) == [Failure.DRIVER_FAILED, Reason.RETRYING]
    begun = decided(job(), replace(seen, memory=memory))
    assert after(begun).last is not None
    assert _phase(begun) == "Restarting"
    assert len(_only(begun.actions, DeletePods)[0].pods) == 2
    going_on = decided(job(), replace(seen, memory=after(begun)))
    assert _only(going_on.actions, EnsureAttempt)[0].attempt == 2
    with_head = replace(seen, memory=after(begun), pods=(head(attempt=2),), services=frozenset({2}))
    assert _only(decided(job(), with_head).actions, CreateWorkers)[0].attempt == 2


@pytest.mark.parametrize(
    ("since_s", "begins"),
    [
        pytest.param(9.0, False, id="just before the pause is over"),
        pytest.param(10.0, True, id="when it is over"),
        pytest.param(11.0, True, id="after it"),
    ],
)
def test_the_second_failure_is_followed_after_a_pause(since_s: float, begins: bool) -> None:
    memory = after(decided(job(), observed([head(phase="Failed")], memory=at_work(failures=1))))
    decision = decided(job(), observed(memory=memory, **NOTHING), now=NOW + since_s)
    last = after(decision).last
    assert last is not None
    assert (last.number == 2) is begins
    assert decision.look_again_s == (None if begins else 1.0)


class TestDrain:
    """The head's node is drained while its driver runs."""

    going = head(terminating=True, gone_by=NOW + 120, disruption="EvictionByEvictionAPI")

    def test_the_workers_stay_until_the_driver_has_saved(self) -> None:
        seen = observed([self.going, worker(0), worker(1, phase="Failed")])
        saving = decided(job(), seen)
        assert saving.actions == ()
        assert (_phase(saving), after(saving).incarnations) == ("Restarting", {})
        assert condition(saving, ConditionType.CLUSTER_READY) == ("False", Failure.EVICTED)
        assert saving.look_again_s == 120 + GIVE_UP_ON_HEAD_S
        assert saving.status is not None
        again = decide(job(), replace(seen, memory=after(saving)), saving.status, now=NOW)
        assert (again.status, again.urgent) == (saving.status, False)

    def test_it_does_not_count(self) -> None:
        gone = replace(self.going, phase="Failed", containers={})
        lost = decided(job(backoffLimit=0), observed([gone, worker(0)]))
        memory = after(lost)
        assert memory.last is not None
        assert (_phase(lost), memory.failures, memory.last.reason) == ("Restarting", 0, Failure.EVICTED)
        begun = decided(job(backoffLimit=0), observed([worker(0)], memory=memory))
        assert after(begun).current is not None

    @pytest.mark.parametrize(
        ("lived_s", "pause_s"),
        [
            pytest.param(0.0, 80.0, id="attempts that do not last are no storm"),
            pytest.param(70.0, 10.0, id="it lasted for most of the pause"),
            pytest.param(80.0, 0.0, id="one that lasted is followed at once"),
        ],
    )
    def test_pauses(self, lived_s: float, pause_s: float) -> None:
        record = replace(at_work().attempts[0], started_at=NOW - lived_s, ended_at=NOW, outcome="Failed")
        attempts = tuple(replace(record, number=number) for number in range(1, 6))
        decision = decided(job(), observed(memory=Memory(attempts=attempts), **NOTHING))
        assert (after(decision).current is None) is (pause_s > 0)
        assert decision.look_again_s == (pause_s or None)

    def test_the_deadline_holds_meanwhile_and_waits_for_it_as_well(self) -> None:
        slow, seen = job(activeDeadlineSeconds=60), observed([self.going, worker(0)])
        over = decided(slow, seen)
        assert condition(over, ConditionType.FAILED) == ("False", Failure.DEADLINE_EXCEEDED)
        waiting = decided(slow, replace(seen, memory=after(over)))
        assert (waiting.actions, waiting.look_again_s) == ((), 120 + GIVE_UP_ON_HEAD_S)
        gone = decided(slow, observed([worker(0)], memory=after(waiting)))
        assert condition(gone, ConditionType.FAILED) == ("True", Failure.DEADLINE_EXCEEDED)

    def test_suspending_meanwhile_waits_for_it_as_well(self) -> None:
        seen = observed([self.going, worker(0)])
        begun = decided(job(suspend=True), seen)
        assert _phase(begun) == "Suspending"
        waiting = decided(job(suspend=True), replace(seen, memory=after(begun)))
        assert waiting.actions == ()


def test_too_many_failures() -> None:
    seen = observed([head(phase="Failed", driver=ended(CONTAINER_DRIVER, 1))], memory=at_work(failures=2))
    decision = decided(job(backoffLimit=2), seen)
    assert _phase(decision) == "Failed"
    assert condition(decision, ConditionType.FAILED) == ("True", Failure.BACKOFF_LIMIT)
    assert "exit code 1" in after(decision).conditions[ConditionType.FAILED].message


def test_a_refusal_is_not_repeated() -> None:
    refused = ended(CONTAINER_DRIVER, ExitCode.REFUSED, message="dataset.name: no such data")
    decision = decided(job(), observed([head(phase="Failed", driver=refused)]))
    assert condition(decision, ConditionType.FAILED) == ("True", Failure.USER_ERROR)


def test_a_replacement_is_told_and_persisted_first() -> None:
    decision = decided(job(), observed([head(), worker(0), worker(1, phase="Failed", reason="Evicted")]))
    assert decision.urgent
    assert _only(decision.actions, CreateWorkers) == []
    assert after(decision).incarnations == {"cpu-1": 1}
    assert _reasons(decision) == [Reason.WORKER_REPLACED]
    assert "evicted" in decision.events[0].message


def test_what_is_replaced_goes_before_its_successor_comes() -> None:
    memory = at_work(incarnations={"cpu-1": 1})
    old = worker(1, phase="Pending", ready=False)
    decision = decided(job(), observed([head(), worker(0), old], memory=memory))
    assert decision.actions == (DeletePods(((old.name, old.uid),)), CreateWorkers(1, ((WorkerSlot("cpu", 1), 1),)))


def test_a_lost_node_with_many_workers_is_no_flood_of_events() -> None:
    gone = [worker(index, phase="Failed") for index in range(50)]
    assert len(decided(job(workers=50), observed([head(), *gone])).events) == 3


class TestSuspension:
    """runPolicy.suspend while an attempt is at work."""

    job = job(suspend=True)
    pods = (head(), worker(0), worker(1))

    def _suspending(self) -> Memory:
        return after(decided(self.job, observed(self.pods)))

    def test_it_is_persisted_first(self) -> None:
        decision = decided(self.job, observed(self.pods))
        assert decision.actions == ()
        assert (_phase(decision), _reasons(decision)) == ("Suspending", [Reason.SUSPENDING])

    def test_then_the_driver_is_stopped_and_the_workers_stay(self) -> None:
        decision = decided(self.job, observed(self.pods, memory=self._suspending()))
        name = self.pods[0].name
        assert decision.actions == (DeletePods(((name, f"uid-{name}"),)),)

    @pytest.mark.parametrize(
        ("late_s", "waits"),
        [
            pytest.param(-1.0, True, id="within its grace period and some more"),
            pytest.param(0.0, False, id="when even that is over"),
            pytest.param(1.0, False, id="and after it"),
        ],
    )
    def test_a_head_that_never_goes_is_not_waited_for(self, late_s: float, waits: bool) -> None:
        stopping = head(terminating=True, gone_by=NOW)
        now = NOW + GIVE_UP_ON_HEAD_S + late_s
        decision = decided(self.job, observed([stopping, worker(0)], memory=self._suspending()), now=now)
        assert (after(decision).current is not None) is waits
        if waits:
            assert decision.actions == ()
            assert decision.look_again_s == -late_s

    @pytest.mark.parametrize(
        "stopped",
        [
            pytest.param(
                [head(driver=ended(CONTAINER_DRIVER, ExitCode.STOPPED), terminating=True)], id="saved a checkpoint"
            ),
            pytest.param([head(phase="Failed", driver=ended(CONTAINER_DRIVER, 1))], id="failed meanwhile"),
            pytest.param([], id="is gone"),
        ],
    )
    def test_when_the_driver_has_ended_everything_goes(self, stopped: list[PodView]) -> None:
        decision = decided(self.job, observed([*stopped, worker(0)], memory=self._suspending()))
        memory = after(decision)
        assert memory.last is not None
        assert (memory.last.outcome, memory.failures, memory.active_since) == ("Suspended", 0, None)
        cleaning = decided(self.job, observed([*stopped, worker(0)], memory=memory))
        assert _only(cleaning.actions, DeleteAttempt) == [DeleteAttempt(1)]
        assert _phase(cleaning) == "Suspending"
        clean = decided(self.job, observed(memory=memory, **NOTHING))
        assert _phase(clean) == "Suspended"
        assert condition(clean, ConditionType.SUSPENDED) == ("True", Reason.SUSPENDED)
        rest = decided(self.job, observed(memory=after(clean), **NOTHING))
        assert (rest.actions, rest.events) == ((), ())

    def test_a_pod_on_a_node_that_does_not_answer_is_not_waited_for(self) -> None:
        memory = after(decided(self.job, observed([worker(0)], memory=self._suspending())))
        stuck = observed([worker(0, terminating=True, gone_by=NOW)], memory=memory, **NOTHING)
        waiting = decided(self.job, stuck, now=NOW + GIVE_UP_ON_HEAD_S - 1)
        assert _phase(waiting) == "Suspending"
        assert after(waiting).conditions["Suspended"].message == "Waiting for pod mnist-1-cpu-0-0 to go."
        assert waiting.look_again_s == 1.0
        given_up = decided(self.job, replace(stuck, memory=after(waiting)), now=NOW + GIVE_UP_ON_HEAD_S)
        assert _phase(given_up) == "Suspended"
        assert "mnist-1-cpu-0-0" in after(given_up).conditions["Suspended"].message

    def test_a_pod_that_is_given_up_hides_none_that_is_waited_for(self) -> None:
        memory = after(decided(self.job, observed([worker(0)], memory=self._suspending())))
        going = [worker(0, terminating=True, gone_by=NOW - 100), worker(1, terminating=True, gone_by=NOW)]
        waiting = decided(self.job, observed(going, memory=memory, **NOTHING))
        assert (_phase(waiting), waiting.look_again_s) == ("Suspending", GIVE_UP_ON_HEAD_S)

    def test_a_driver_that_finishes_meanwhile_has_succeeded(self) -> None:
        done = head(driver=ended(CONTAINER_DRIVER, 0), terminating=True)
        assert _phase(decided(self.job, observed([done], memory=self._suspending()))) == "Succeeded"

    def test_a_driver_that_refuses_meanwhile_has_failed(self) -> None:
        refused = head(phase="Failed", driver=ended(CONTAINER_DRIVER, ExitCode.REFUSED))
        assert _phase(decided(self.job, observed([refused], memory=self._suspending()))) == "Failed"

    def test_resuming_begins_the_next_attempt_uncounted(self) -> None:
        memory = after(decided(self.job, observed([worker(0)], memory=self._suspending())))
        resumed = decided(job(), observed(memory=memory, **NOTHING), now=NOW + 1000)
        again = after(resumed)
        assert again.current is not None
        assert (again.current.number, again.failures) == (2, 0)
        assert _reasons(resumed) == [Reason.RESUMED]
        assert condition(resumed, ConditionType.SUSPENDED) == ("False", Reason.ACTIVE)

    def test_changing_ones_mind_while_it_suspends_ends_in_a_new_attempt(self) -> None:
        decision = decided(job(), observed([worker(0)], memory=self._suspending()))
        assert after(decision).current is None
        begun = after(decided(job(), observed([worker(0)], memory=after(decision))))
        assert begun.current is not None

    def test_a_job_that_is_born_suspended_has_no_attempt(self) -> None:
        decision = decide(self.job, observed(memory=Memory(), **NOTHING), {}, now=NOW)
        assert decision.actions == ()
        assert (_phase(decision), after(decision).attempts) == ("Suspended", ())


class TestDeadline:
    """runPolicy.activeDeadlineSeconds; the attempt began 60 s ago."""

    job = job(activeDeadlineSeconds=60)
    pods = (head(), worker(0), worker(1))

    def _expiring(self) -> Memory:
        return after(decided(self.job, observed(self.pods)))

    @pytest.mark.parametrize(
        ("deadline_s", "over", "again_s"),
        [
            pytest.param(61, False, 1.0, id="just before"),
            pytest.param(60, True, None, id="at"),
            pytest.param(59, True, None, id="after"),
        ],
    )
    def test_it_is_persisted_first(self, deadline_s: int, over: bool, again_s: float | None) -> None:
        decision = decided(job(activeDeadlineSeconds=deadline_s), observed(self.pods))
        assert (decision.actions, decision.look_again_s) == ((), again_s)
        assert (ConditionType.FAILED in after(decision).conditions) is over
        assert after(decision).current is not None
        if over:
            assert condition(decision, ConditionType.FAILED) == ("False", Failure.DEADLINE_EXCEEDED)
            assert (_reasons(decision), decision.urgent) == ([Failure.DEADLINE_EXCEEDED], True)

    @pytest.mark.parametrize("policy", ["All", "Running", "None"])
    def test_then_the_driver_is_stopped_and_the_workers_stay_until_it_has_saved(self, policy: str) -> None:
        slow = job(activeDeadlineSeconds=60, cleanPodPolicy=policy)
        stopping = decided(slow, observed(self.pods, memory=self._expiring()))
        assert stopping.actions == (DeletePods(((head().name, head().uid),)),)
        going = [head(terminating=True, gone_by=NOW + 120), worker(0), worker(1)]
        waiting = decided(slow, observed(going, memory=after(stopping)))
        assert (waiting.actions, waiting.look_again_s) == ((), 120 + GIVE_UP_ON_HEAD_S)
        saved = head(driver=ended(CONTAINER_DRIVER, ExitCode.STOPPED), terminating=True)
        over = decided(slow, observed([saved, worker(0), worker(1)], memory=after(waiting)))
        assert (_phase(over), after(over).failures) == ("Failed", 0)
        assert condition(over, ConditionType.FAILED) == ("True", Failure.DEADLINE_EXCEEDED)

    def test_a_head_that_never_goes_is_not_waited_for(self) -> None:
        stuck = observed([head(terminating=True, gone_by=NOW - GIVE_UP_ON_HEAD_S)], memory=self._expiring())
        assert _phase(decided(self.job, stuck)) == "Failed"

    def test_a_driver_that_finishes_meanwhile_has_succeeded(self) -> None:
        done = head(driver=ended(CONTAINER_DRIVER, 0), terminating=True)
        decision = decided(self.job, observed([done], memory=self._expiring()))
        assert _phase(decision) == "Succeeded"
        assert ConditionType.FAILED not in after(decision).conditions

    def test_a_driver_that_refuses_meanwhile_says_why(self) -> None:
        refused = head(phase="Failed", driver=ended(CONTAINER_DRIVER, ExitCode.REFUSED))
        decision = decided(self.job, observed([refused], memory=self._expiring()))
        assert condition(decision, ConditionType.FAILED) == ("True", Failure.USER_ERROR)

    @pytest.mark.parametrize(
        "policy", [{"suspend": True}, {"activeDeadlineSeconds": 1000}, {}], ids=["suspended", "raised", "taken away"]
    )
    def test_once_begun_it_is_carried_through(self, policy: dict[str, Any]) -> None:
        stopping = decided(job(**policy), observed(self.pods, memory=self._expiring()))
        assert stopping.actions == (DeletePods(((head().name, head().uid),)),)
        assert _phase(decided(job(**policy), observed([worker(0)], memory=after(stopping)))) == "Failed"

    def test_before_there_is_a_head_there_is_nothing_to_wait_for(self) -> None:
        seen = observed(services=frozenset())
        over = decided(self.job, seen)
        assert over.actions == ()
        assert _phase(decided(self.job, replace(seen, memory=after(over)))) == "Failed"

    def test_while_it_suspends_suspension_is_carried_through_and_resuming_fails_it(self) -> None:
        suspending = after(decided(job(suspend=True), observed(self.pods)))
        slow = job(suspend=True, activeDeadlineSeconds=60)
        memory = after(decided(slow, observed([worker(0)], memory=suspending)))
        assert memory.last is not None
        assert memory.last.outcome == "Suspended"
        rests = decided(slow, observed(memory=memory, **NOTHING), now=NOW + 1000)
        assert _phase(rests) == "Suspended"
        resumed = decided(self.job, observed(memory=after(rests), **NOTHING), now=NOW + 2000)
        assert condition(resumed, ConditionType.FAILED) == ("True", Failure.DEADLINE_EXCEEDED)

    def test_between_attempts(self) -> None:
        memory = after(decided(job(), observed([head(phase="Failed")], memory=at_work(failures=1))))
        decision = decided(job(activeDeadlineSeconds=60), observed(memory=memory, **NOTHING))
        assert condition(decision, ConditionType.FAILED) == ("True", Failure.DEADLINE_EXCEEDED)

    def test_time_while_suspended_does_not_count(self) -> None:
        memory = replace(at_work(), active_since=NOW - 10, active_seconds=40.0)
        decision = decided(job(activeDeadlineSeconds=60), observed([head(), worker(0), worker(1)], memory=memory))
        assert decision.look_again_s == 10.0


class TestAfterTheEnd:
    """Clean-up and time to live; the job ended at NOW."""

    memory = after(decided(job(), observed([head(phase="Succeeded")])))

    @pytest.mark.parametrize(
        ("later_s", "deleted"),
        [
            pytest.param(59.0, False, id="just before"),
            pytest.param(60.0, True, id="at"),
            pytest.param(61.0, True, id="after"),
        ],
    )
    def test_time_to_live(self, later_s: float, deleted: bool) -> None:
        seen = observed(memory=self.memory, **NOTHING)
        decision = decided(job(ttlSecondsAfterFinished=60), seen, now=NOW + later_s)
        assert (decision.actions == (DeleteJob(),)) is deleted
        assert decision.look_again_s == (None if deleted else 1.0)

    def test_neither_suspending_nor_editing_wakes_it(self) -> None:
        decision = decided(job(suspend=True, activeDeadlineSeconds=1), observed(memory=self.memory, **NOTHING))
        assert (_phase(decision), decision.actions, decision.events) == ("Succeeded", (), ())

    def test_after_a_deadline_kept_workers_have_their_time_to_end(self) -> None:
        slow = job(activeDeadlineSeconds=60, cleanPodPolicy="None")
        expiring = after(decided(slow, observed([head(), worker(0)])))
        over = decided(slow, observed([worker(0)], memory=expiring))
        assert condition(over, ConditionType.FAILED) == ("True", Failure.DEADLINE_EXCEEDED)
        kept = decided(slow, observed([worker(0)], memory=after(over)))
        assert (kept.actions, kept.look_again_s) == ((), FOLLOWS_ITS_HEAD_S)

    def test_an_edit_changes_nothing_of_what_became_of_it_and_is_not_judged(self) -> None:
        decision = decided(job(), observed(memory=self.memory, generation=2, **NOTHING))
        assert _judged_for(decision, ConditionType.SUCCEEDED) == 2, "who waits for it waits with the new generation"
        assert _judged_for(decision, ConditionType.ACCEPTED) == 1

    def test_old_pods_that_show_up_late_are_deleted(self) -> None:
        decision = decided(job(), observed([worker(0)], memory=self.memory, **NOTHING))
        assert _only(decision.actions, DeletePods) != []


class TestEdits:
    """Edits while an attempt is at work."""

    def test_an_edit_of_the_frozen_part_waits(self) -> None:
        decision = decided(job(), observed([head(), worker(0), worker(1)], digest="spec-2", generation=2))
        assert decision.actions == ()
        assert condition(decision, ConditionType.UP_TO_DATE) == ("False", Reason.EDIT_PENDING)
        assert decision.urgent

    def test_the_next_attempt_has_it(self) -> None:
        lost = decided(job(), observed([], digest="spec-2"))
        begun = decided(job(), observed(memory=after(lost), digest="spec-2", **NOTHING))
        assert condition(begun, ConditionType.UP_TO_DATE) == ("True", Reason.CURRENT)
        assert after(begun).current is not None

    def test_one_that_nobody_has_looked_at_is_not_said_to_be_at_work(self) -> None:
        running = after(decided(job(), observed([head(), worker(0), worker(1)])))
        suspending = after(decided(job(suspend=True), observed([head()], memory=running)))
        seen = observed([head(terminating=True)], memory=suspending, digest="spec-2", generation=2)
        decision = decided(job(suspend=True), seen)
        assert condition(decision, ConditionType.UP_TO_DATE) == ("True", Reason.CURRENT)
        assert _judged_for(decision, ConditionType.UP_TO_DATE) == 1
        assert _judged_for(decision, ConditionType.ACCEPTED) == 2

    def test_more_workers(self) -> None:
        decision = decided(job(workers=4), observed([head(), worker(0), worker(1)]))
        assert [slot.index for slot, _ in _only(decision.actions, CreateWorkers)[0].pods] == [2, 3]

    def test_fewer_workers(self) -> None:
        decision = decided(job(workers=1), observed([head(), worker(0), worker(1)]))
        assert decision.actions == (DeletePods((("mnist-1-cpu-1-0", "uid-mnist-1-cpu-1-0"),)),)


class TestInvalidSpec:
    """A spec that only the operator finds wrong."""

    def test_no_attempt_begins_and_nothing_has_failed(self) -> None:
        decision = decide(job(invalid="spec.x: no"), observed(memory=Memory(), **NOTHING), {}, now=NOW)
        assert (_phase(decision), decision.actions) == ("Pending", ())
        assert condition(decision, ConditionType.ACCEPTED) == ("False", Failure.INVALID_SPEC)
        assert _reasons(decision) == [Failure.INVALID_SPEC]
        again = decided(job(invalid="spec.x: no"), observed(memory=after(decision), **NOTHING))
        assert again.events == ()

    def test_it_heals(self) -> None:
        wrong = decide(job(invalid="spec.x: no"), observed(memory=Memory(), **NOTHING), {}, now=NOW)
        decision = decided(job(), observed(memory=after(wrong), **NOTHING))
        assert condition(decision, ConditionType.ACCEPTED) == ("True", Reason.VALID)
        assert after(decision).current is not None


class TestTrouble:
    """What keeps a cluster from coming up is shown and told once, and burns no attempt."""

    pulling = head(
        phase="Pending",
        containers={"ray": container("ray", "waiting", reason="ImagePullBackOff", message="no such image")},
    )

    def test_it_is_shown(self) -> None:
        decision = decided(job(), observed([self.pulling, worker(0), worker(1)]), now=NOW + 100_000)
        assert _phase(decision) == "Pending"
        assert condition(decision, ConditionType.CLUSTER_READY) == ("False", Failure.IMAGE_PULL_FAILED)
        assert _reasons(decision) == [Failure.IMAGE_PULL_FAILED]
        assert after(decision).failures == 0

    def test_it_is_told_once(self) -> None:
        seen = observed([self.pulling, worker(0), worker(1)])
        again = decided(job(), replace(seen, memory=after(decided(job(), seen))))
        assert again.events == ()

    def test_what_the_server_refuses(self) -> None:
        decision = decided(job(), observed([], services=frozenset(), refusal="Pod x is refused: exceeded quota"))
        assert condition(decision, ConditionType.CLUSTER_READY) == ("False", Failure.REFUSED_BY_API)
        assert _only(decision.actions, EnsureAttempt) != []  # tried again

    @pytest.mark.parametrize(
        ("others", "status", "reason"),
        [
            pytest.param([], "False", Failure.OUT_OF_MEMORY, id="it is needed"),
            pytest.param([worker(1)], "True", Reason.CLUSTER_READY, id="enough are up without it"),
        ],
    )
    def test_why_a_worker_that_is_held_back_was_lost(self, others: list[PodView], status: str, reason: str) -> None:
        killed = ended(CONTAINER_RAY, 137, reason="OOMKilled")
        dead = worker(0, incarnation=3, phase="Failed", created_at=NOW, containers={CONTAINER_RAY: killed})
        seen = observed([head(), dead, *others], memory=at_work(incarnations={"cpu-0": 3}, replaced={"cpu": 3}))
        decision = decided(job(workers=1 + len(others)), seen)
        assert condition(decision, ConditionType.CLUSTER_READY) == (status, reason)
        assert _reasons(decision) == ([reason] if status == "False" else [])

    def test_an_unschedulable_worker_is_looked_at_again(self) -> None:
        waiting = worker(0, phase="Pending", ready=False, unschedulable="0/1 nodes", created_at=NOW - 4)
        decision = decided(job(), observed([head(), waiting, worker(1)]))
        assert decision.look_again_s == 6.0
