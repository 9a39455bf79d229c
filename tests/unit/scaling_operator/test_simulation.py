"""Whatever happens, in whatever order: no duplicate pods, nothing left behind, and it always ends.

The whole controller runs, with its queue, executor and caches, in virtual time against a simulated server whose
watches lag and whose answers get lost. What must hold at every moment is in simulation.world.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.scaling_operator.runtime.virtual_time import run_in_virtual_time
from tests.unit.scaling_operator.simulation.world import TROUBLES, TROUBLES_S, Trouble, live

_troubles = st.lists(
    st.builds(
        Trouble,
        at_s=st.integers(0, TROUBLES_S - 1),
        name=st.sampled_from(sorted(set(TROUBLES) - {"job deleted"})),
        pick=st.integers(0, 5),
    ),
    max_size=16,
)


def test_a_job_without_troubles_succeeds_with_few_requests() -> None:
    ending = run_in_virtual_time(live([], {"backoffLimit": 0}, seed=1, skew_s=0.0))
    assert ending.status["phase"] == "Succeeded"
    assert ending.status["attempt"] == 1
    assert not any(ending.left.values())
    creates = sum(count for (verb, _), count in ending.requests.items() if verb == "create")
    # A head, three workers, Secret, Service, NetworkPolicy and the namespace's ServiceAccount.
    assert creates == 8
    # The attempt, readiness, counters, the end, and the edit at the end of the troubles.
    assert ending.requests["patch", "scalingjobs"] <= 5


def test_a_head_is_given_up_when_it_is_frozen_and_not_when_its_driver_is_silent_for_a_while() -> None:
    for trouble, outcomes in (
        ("driver silent", [("Succeeded", "Completed")]),
        ("driver frozen", [("Failed", "Unresponsive"), ("Succeeded", "Completed")]),
    ):
        ending = run_in_virtual_time(live([Trouble(30, trouble, 0)], {"backoffLimit": 1}, seed=1, skew_s=0.0))
        assert [(one["outcome"], one["reason"]) for one in ending.status["attempts"]] == outcomes, trouble


@settings(max_examples=120)
@given(
    troubles=_troubles,
    seed=st.integers(0, 1000),
    skew_s=st.sampled_from([0.0, -40.0, 40.0]),
    backoff_limit=st.sampled_from([0, 2, 50]),
    deadline_s=st.sampled_from([None, 30, 200]),
)
def test_it_always_ends_and_leaves_nothing(
    troubles: list[Trouble], seed: int, skew_s: float, backoff_limit: int, deadline_s: int | None
) -> None:
    policy = {"backoffLimit": backoff_limit}
    if deadline_s is not None:
        policy["activeDeadlineSeconds"] = deadline_s
    ending = run_in_virtual_time(live(troubles, policy, seed=seed, skew_s=skew_s))
    assert ending.status["phase"] in ("Succeeded", "Failed")
    assert not any(ending.left.values()), ending.left
    # No storm: each trouble costs some requests, and waiting costs none.
    assert sum(ending.requests.values()) < 100 + 60 * len(troubles)


@settings(max_examples=30)
@given(troubles=_troubles, seed=st.integers(0, 1000), at_s=st.integers(0, TROUBLES_S - 1))
def test_deletion_leaves_nothing(troubles: list[Trouble], seed: int, at_s: int) -> None:
    script = [*troubles, Trouble(at_s, "job deleted", 0)]
    ending = run_in_virtual_time(live(script, {"backoffLimit": 50}, seed=seed, skew_s=0.0))
    assert not any(ending.left.values()), ending.left


@settings(max_examples=15)
@given(troubles=_troubles, seed=st.integers(0, 1000))
def test_a_finished_job_is_deleted_in_its_time(troubles: list[Trouble], seed: int) -> None:
    policy = {"backoffLimit": 2, "ttlSecondsAfterFinished": 30}
    ending = run_in_virtual_time(live(troubles, policy, seed=seed, skew_s=0.0))
    assert ending.job_is_gone
    assert not any(ending.left.values()), ending.left


@settings(max_examples=15)
@given(troubles=_troubles, seed=st.integers(0, 1000), deadline_s=st.sampled_from([1_000, 30]))
def test_pods_stay_when_nothing_is_to_be_cleaned_but_none_works_on(
    troubles: list[Trouble], seed: int, deadline_s: int
) -> None:
    policy = {"backoffLimit": 0, "cleanPodPolicy": "None", "activeDeadlineSeconds": deadline_s}
    ending = run_in_virtual_time(live(troubles, policy, seed=seed, skew_s=0.0))
    assert ending.status["phase"] in ("Succeeded", "Failed")
    assert set(ending.left["secrets"]) <= {f"mnist-{ending.status['attempt']}"}
    assert ending.alive == []
