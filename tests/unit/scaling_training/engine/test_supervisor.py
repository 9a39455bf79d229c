"""What the driver's eye on the worker group does when processes, answers or storage fail, without a Ray."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray.exceptions import GetTimeoutError, RayError

    from scaling_training.engine import mailbox, supervisor
    from scaling_training.engine.failures import Cause, Kind
    from scaling_training.engine.mailbox import Letter
    from scaling_training.engine.supervisor import Supervisor
from scaling_training.aside import Aside
from scaling_training.train.types import TrainingProgress
from scaling_training.world.heartbeat import Heartbeat, Phase

STEPPING = Heartbeat(step=7, phase=Phase.STEP, median_step_s=0.1, longest_s=0.0)


@dataclass(eq=False)
class Answer:
    """A reference: what an actor answered, what was raised instead, or None as long as it says nothing."""

    value: Any


@dataclass(eq=False)
class Actor:
    """A training process. ``script`` holds its next answers; once it is empty, those of a process that is well."""

    rank: int
    script: list[Any] = field(default_factory=list)
    step: int = 0
    silent: bool = False
    stuck: bool = False  # its training thread makes no step

    @property
    def execute(self) -> Any:
        return SimpleNamespace(remote=self._answer)

    def _answer(self, function: Callable[..., Any], *arguments: Any) -> Answer:
        if self.silent:
            return Answer(None)
        if function is mailbox.stacks:
            return Answer(f"stacks of {self.rank}")
        if self.script:
            return Answer(self.script.pop(0))
        self.step += not self.stuck
        progress = TrainingProgress(epoch=1, epochs=2, step=self.step, steps=100, workers=2)
        return Answer(Letter(progress, {}, replace(STEPPING, step=self.step)))


@dataclass
class FakeRay:
    """As much of Ray as the supervisor calls."""

    killed: list[int] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)  # for how many seconds at most, where not all was there

    def wait(
        self, answers: list[Answer], num_returns: int = 1, timeout: float = 0
    ) -> tuple[list[Answer], list[Answer]]:
        done = [one for one in answers if one.value is not None]
        if len(done) < num_returns and timeout:
            self.waited.append(timeout)
        return done, [one for one in answers if one.value is None]

    def get(self, answer: Answer, timeout: float = 0) -> Any:
        if answer.value is None:
            raise GetTimeoutError
        if isinstance(answer.value, Exception):
            raise answer.value
        return answer.value

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor.rank)
        actor.silent = True


@dataclass
class Watched:
    """A supervisor over two processes that train; a second passes from poll to poll."""

    supervisor: Supervisor
    ray: FakeRay
    actors: list[Actor]
    group: Any
    steps: list[int] = field(default_factory=list)
    told: list[tuple[str, Mapping[int, str]]] = field(default_factory=list)
    aside: Aside = field(default_factory=Aside)
    storage_answers: threading.Event = field(default_factory=threading.Event)
    now: float = 100.0

    def poll(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += 1.0
            self.supervisor.after_worker_group_poll_status(None)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    def deliver(letter: Letter) -> None:
        assert letter.progress is not None
        found.steps.append(letter.progress.step)

    def hang(why: str, stacks: Mapping[int, str]) -> None:
        assert found.storage_answers.wait(60)
        found.told.append((why, stacks))

    aside = Aside()
    one = Supervisor(deliver, lambda name, at: None, lambda: None, hang, aside)
    actors = [Actor(0), Actor(1)]
    group = SimpleNamespace(get_workers=lambda: [SimpleNamespace(actor=actor) for actor in actors])
    found = Watched(one, FakeRay(), actors, group, aside=aside)
    monkeypatch.setattr(supervisor, "ray", found.ray)
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: found.now, time=time.time))
    one.after_worker_group_start(group)
    one.after_worker_group_training_start(group)
    return found


@pytest.mark.parametrize("rank", [0, 1])
def test_an_answer_that_is_lost_is_followed_by_others(watched: Watched, rank: int) -> None:
    watched.actors[rank].script = [RayError("the connection broke")]
    watched.poll(4)
    assert watched.steps[-1] >= 2, "rank 0 is heard"
    assert watched.actors[1].step >= 2, "so is the other"


def test_a_verdict_is_on_one_group_and_not_on_the_next(watched: Watched) -> None:
    watched.supervisor.verdict = Cause(Kind.LOST, "training process 1 made no step for 34 s: stopped")
    watched.supervisor.group_lost()
    assert watched.supervisor.verdict is None


def test_a_silent_process_is_killed_without_waiting_for_anybody(watched: Watched) -> None:
    watched.poll(2)
    watched.actors[1].silent = True
    watched.poll(20)
    # Storage, which hears of it, does not answer yet.
    assert (watched.ray.killed, watched.ray.waited, watched.told) == ([1], [], [])
    assert watched.supervisor.verdict is not None
    watched.storage_answers.set()
    watched.aside.wait(60)
    ((why, stacks),) = watched.told
    assert why == watched.supervisor.verdict.sentence
    assert stacks[0] == "stacks of 0"
    assert "there are no stacks" in stacks[1]


def test_a_process_that_answers_tells_where_it_is_stuck_before_it_is_killed(watched: Watched) -> None:
    watched.storage_answers.set()
    watched.poll(2)
    watched.actors[1].stuck = True
    watched.poll(20)
    assert watched.ray.killed == [1]
    watched.aside.wait(60)
    ((_, stacks),) = watched.told
    assert stacks == {0: "stacks of 0", 1: "stacks of 1"}


def test_a_launch_that_hangs_ends_with_the_death_of_all_and_is_called_what_it_is(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "START_LIMIT_S", 0.05)
    watched.supervisor.after_worker_group_start(watched.group)
    deadline = time.monotonic() + 60
    while len(watched.ray.killed) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watched.ray.killed == [0, 1]
    assert watched.supervisor.verdict is not None
    assert watched.supervisor.verdict.kind is Kind.LOST
    assert "did not all begin to train" in watched.supervisor.verdict.sentence


@pytest.mark.parametrize("end", ["trains", "lost", "over"])
def test_a_group_whose_launch_is_over_is_left_alone(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(supervisor, "START_LIMIT_S", 5.0)
    before = set(threading.enumerate())
    watched.supervisor.after_worker_group_start(watched.group)
    (limit,) = set(threading.enumerate()) - before
    if end == "trains":
        watched.supervisor.after_worker_group_training_start(watched.group)
    elif end == "lost":
        watched.supervisor.group_lost()
    else:
        watched.supervisor.launch_over()
    limit.join(60)
    assert watched.ray.killed == []
