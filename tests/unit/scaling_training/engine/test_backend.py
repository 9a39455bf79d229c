"""A group whose processes do not answer as it starts, without a Ray."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray.exceptions import GetTimeoutError
    from ray.train.v2.api.exceptions import ControllerError

    from scaling_training.engine import answers, backend
    from scaling_training.engine.answers import START_LIMIT_S
    from scaling_training.engine.backend import ProcessGroupBackend, ProcessGroupConfig
    from scaling_training.engine.errors import NoAnswerError
    from scaling_training.engine.failures import Kind
    from scaling_training.engine.policies import group_cause


@dataclass(eq=False)
class Answer:
    """A reference; that of a process that hangs never has a value."""

    value: Any
    is_there: bool


@dataclass
class Group:
    """Processes, some of which hang once they are called with a function."""

    size: int
    hang: Callable[..., Any] | None = None
    ranks: tuple[int, ...] = ()
    called: list[Callable[..., Any]] = field(default_factory=list)

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

    def get(self, references: Sequence[Answer], timeout: float) -> list[Any]:
        assert timeout == START_LIMIT_S
        if not all(reference.is_there for reference in references):
            raise GetTimeoutError
        return [reference.value for reference in references]

    def wait(self, references: Sequence[Answer], num_returns: int, timeout: float) -> tuple[list[Answer], list[Answer]]:
        return [one for one in references if one.is_there], [one for one in references if not one.is_there]


@pytest.fixture(autouse=True)
def ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "ray", FakeRay())


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
