from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from scaling_api import names
from scaling_api.names import WorkerSlot
from scaling_api.scalars import MAX_ATTEMPT, MAX_GROUP_NAME, MAX_INCARNATION, MAX_JOB_NAME, MAX_WORKERS_PER_GROUP

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_MAX_LABEL = 63

# Few letters, so that names that might meet are tried often.
_JOBS = st.from_regex(r"[ab]([-1a]{0,4}[a1])?", fullmatch=True) | st.just("a" * MAX_JOB_NAME)
_ATTEMPTS = st.integers(1, 12) | st.just(MAX_ATTEMPT)
_SLOTS = st.builds(
    WorkerSlot,
    group=st.from_regex(r"[ab][a1]{0,2}", fullmatch=True) | st.just("g" * MAX_GROUP_NAME),
    index=st.integers(0, 12) | st.just(MAX_WORKERS_PER_GROUP - 1),
)
_INCARNATIONS = st.integers(0, 12) | st.just(MAX_INCARNATION)
_HEADS = st.tuples(_JOBS, _ATTEMPTS)
_WORKERS = st.tuples(_JOBS, _ATTEMPTS, _SLOTS, _INCARNATIONS)
_PODS = st.one_of(_HEADS, _WORKERS)

_Pod = tuple[str, int] | tuple[str, int, WorkerSlot, int]


def _name(pod: _Pod) -> str:
    return names.head_pod(*pod) if len(pod) == 2 else names.worker_pod(*pod)


def test_the_longest_names_fit_a_label() -> None:
    job, slot = "j" * MAX_JOB_NAME, WorkerSlot("g" * MAX_GROUP_NAME, MAX_WORKERS_PER_GROUP - 1)
    assert len(names.worker_pod(job, MAX_ATTEMPT, slot, MAX_INCARNATION)) == _MAX_LABEL
    assert len(names.head_pod(job, MAX_ATTEMPT)) <= _MAX_LABEL
    assert len(names.ray_cluster(job, MAX_ATTEMPT)) <= _MAX_LABEL


@given(_PODS)
def test_a_name_is_a_label(pod: _Pod) -> None:
    name = _name(pod)
    assert _LABEL.fullmatch(name)
    assert len(name) <= _MAX_LABEL


@given(_PODS, _PODS)
def test_two_pods_never_share_a_name(one: _Pod, other: _Pod) -> None:
    assert (_name(one) == _name(other)) is (one == other)


@given(_HEADS, _HEADS)
def test_two_attempts_never_share_a_service(one: tuple[str, int], other: tuple[str, int]) -> None:
    assert (names.ray_cluster(*one) == names.ray_cluster(*other)) is (one == other)


@given(_SLOTS, _SLOTS)
def test_two_slots_never_share_a_key(one: WorkerSlot, other: WorkerSlot) -> None:
    assert (one.key == other.key) is (one == other)


def test_a_later_job_of_the_same_name_has_a_folder_of_its_own() -> None:
    assert names.run_folder("team", "mnist", "uid-1") == "team/mnist-uid-1"
    assert names.run_folder("team", "mnist", "uid-1") != names.run_folder("team", "mnist", "uid-2")


def test_workers_find_the_head_by_its_service() -> None:
    assert names.head_address("mnist", 3, "team") == "mnist-3.team.svc"
