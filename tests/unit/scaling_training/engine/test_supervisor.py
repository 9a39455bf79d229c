"""What the driver's eye on the worker group does when processes, answers or storage fail, without a Ray."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray.exceptions import RayError

    from scaling_training.engine import supervisor
    from scaling_training.engine.failures import Cause, Kind
    from scaling_training.engine.mailbox import Letter
    from scaling_training.engine.supervisor import Supervisor
from scaling_training.train.heartbeat import Heartbeat, Phase
from scaling_training.train.types import TrainingProgress

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

    @property
    def execute(self) -> Any:
        return SimpleNamespace(remote=self._answer)

    def _answer(self, function: Callable[..., Any], *arguments: Any) -> Answer:
        if self.script:
            return Answer(self.script.pop(0))
        self.step += 1
        progress = TrainingProgress(epoch=1, epochs=2, step=self.step, steps=100, workers=2)
        return Answer(Letter(progress, {}, STEPPING))


class FakeRay:
    """As much of Ray as the supervisor calls."""

    def wait(self, answers: list[Answer], timeout: float) -> tuple[list[Answer], list[Answer]]:
        return [one for one in answers if one.value is not None], [one for one in answers if one.value is None]

    def get(self, answer: Answer) -> Any:
        if isinstance(answer.value, Exception):
            raise answer.value
        return answer.value


@dataclass
class Watched:
    """A supervisor over two processes that train."""

    supervisor: Supervisor
    ray: FakeRay
    actors: list[Actor]
    steps: list[int]

    def poll(self, times: int = 1) -> None:
        for _ in range(times):
            self.supervisor.after_worker_group_poll_status(None)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    steps: list[int] = []

    def deliver(letter: Letter) -> None:
        assert letter.progress is not None
        steps.append(letter.progress.step)

    ray = FakeRay()
    monkeypatch.setattr(supervisor, "ray", ray)
    one = Supervisor(deliver, lambda name, at: None, lambda: None, lambda why, stacks: None)
    actors = [Actor(0), Actor(1)]
    group = SimpleNamespace(get_workers=lambda: [SimpleNamespace(actor=actor) for actor in actors])
    one.after_worker_group_start(group)
    one.after_worker_group_training_start(group)
    return Watched(one, ray, actors, steps)


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
