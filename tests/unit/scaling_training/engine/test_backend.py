"""A group whose processes do not answer as it starts, without a Ray."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray.train import ControllerError

    from scaling_training.engine import answers, backend
    from scaling_training.engine.answers import START_LIMIT_S
    from scaling_training.engine.backend import ProcessGroupBackend, ProcessGroupConfig
    from scaling_training.engine.errors import GivenUpError, NoAnswerError
    from scaling_training.engine.failures import Kind
    from scaling_training.engine.policies import group_cause
    from scaling_training.engine.watchdog import WAITED_FOR_S


@dataclass(eq=False)
class Answer:
    """A reference to what was answered, or raised instead; that of a process that hangs never has a value."""

    value: Any
    is_there: bool = True


@dataclass
class Group:
    """Processes, some of which hang once they are called with a function."""

    size: int
    hang: Callable[..., Any] | None = None
    ranks: tuple[int, ...] = ()
    called: list[Callable[..., Any]] = field(default_factory=list)

    def given_up(self) -> bool:
        return False

    def __len__(self) -> int:
        return self.size

    def get_resources_per_worker(self) -> dict[str, float]:
        return {"slot": 1.0}

    def execute_single_async(self, rank: int, function: Callable[..., Any], *arguments: Any) -> Answer:
        self.called.append(function)
        return Answer(
            "host:1" if function is backend.offer_address else None, function is not self.hang or rank not in self.ranks
        )


class FakeRay:
    """As much of Ray as is called; its clock jumps to the end of what is waited for."""

    now: float = 100.0
    looks: int = 0

    def get(self, references: Sequence[Answer]) -> list[Any]:
        for reference in references:
            if isinstance(reference.value, Exception):
                raise reference.value
        return [reference.value for reference in references]

    def wait(self, references: Sequence[Answer], timeout: float) -> tuple[list[Answer], list[Answer]]:
        self.looks += 1
        done = [one for one in references if one.is_there][:1]
        if not done:
            self.now += timeout
        return done, [one for one in references if one not in done]


@pytest.fixture(autouse=True)
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(answers, "ray", fake)
    monkeypatch.setattr(answers, "time", SimpleNamespace(monotonic=lambda: fake.now))
    return fake


def test_what_was_answered_is_in_the_order_of_the_ranks() -> None:
    assert answers.answers([Answer(rank) for rank in range(3)], given_up=lambda: False) == [0, 1, 2]


def test_what_one_process_raised_is_not_kept_back_by_one_that_hangs(ray: FakeRay) -> None:
    with pytest.raises(ValueError, match="no such GPU"):
        answers.answers([Answer(None, is_there=False), Answer(ValueError("no such GPU"))], given_up=lambda: False)
    assert ray.now == 100.0


def test_a_wait_that_is_given_up_ends_long_before_its_limit(ray: FakeRay) -> None:
    with pytest.raises(GivenUpError):
        answers.answers([Answer(None, is_there=False)], given_up=lambda: ray.looks >= 3)
    assert ray.now - 100.0 < 5.0


@pytest.mark.parametrize(
    ("hang", "ranks", "named"),
    [
        pytest.param(backend.prepare, (1,), "training process 1 did", id="one in its imports"),
        pytest.param(backend.offer_address, (0,), "training process 0 did", id="the one that offers an address"),
        pytest.param(backend.join, (0, 2), "training processes 0, 2 did", id="two as they meet"),
    ],
)
def test_a_group_that_does_not_come_up_is_a_loss_that_names_who_is_silent(
    hang: Callable[..., Any], ranks: tuple[int, ...], named: str
) -> None:
    with pytest.raises(NoAnswerError) as silent:
        ProcessGroupBackend().on_start(Group(3, hang, ranks), ProcessGroupConfig())
    cause = group_cause(ControllerError(silent.value))
    assert cause.kind is Kind.LOST
    assert cause.sentence == f"{named} not answer within {START_LIMIT_S:.0f} s as the group started"


def test_a_single_process_meets_nobody() -> None:
    alone, both = Group(1), Group(2)
    ProcessGroupBackend().on_start(alone, ProcessGroupConfig())
    ProcessGroupBackend().on_start(both, ProcessGroupConfig())
    assert alone.called == []
    assert both.called == [backend.prepare] * 2 + [backend.offer_address] + [backend.join] * 2


def test_the_others_would_give_up_later_than_the_wait_for_them() -> None:
    assert START_LIMIT_S < backend.COLLECTIVE_TIMEOUT_S


def test_the_others_would_give_up_later_than_the_watchdog() -> None:
    assert WAITED_FOR_S < backend.COLLECTIVE_TIMEOUT_S
