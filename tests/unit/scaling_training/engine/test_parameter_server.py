"""What the coordinator's actor makes of shards that come and go, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from scaling_training.engine import parameter_server
from scaling_training.engine.parameter_server import CoordinatorActor
from scaling_training.errors import UserError
from scaling_training.update.errors import ServerLostError
from scaling_training.update.messages import Commit, Group, Pushed
from scaling_training.update.samples import Lease, SampleLedger, Worker
from tests.unit.scaling_training.builders import a_spec

GROUP = Group(workers=1, samples=100, epochs=1, share=10, batch=10, bound=4, scaling=None)
LEDGER = SampleLedger().state_dict()


class Shard:
    """A handle on a shard that its holder takes for lost until it has asked so often."""

    def __init__(self, *, lost_for: int = 0, position: int = 0, answers: Callable[[], Awaitable[Any]] | None = None):
        self.commits: list[Commit] = []
        self.position = SimpleNamespace(remote=self._position)
        self.commit = SimpleNamespace(remote=self._commit)
        self._lost_for = lost_for
        self._at = position
        self._answers = answers  # what its answers wait for

    def _position(self) -> Awaitable[int]:
        at = self._at + len(self.commits)

        async def answer() -> int:
            if self._lost_for > 0:
                self._lost_for -= 1
                raise RayActorError
            if self._answers is not None:
                await self._answers()
            return at

        return answer()

    def _commit(self, commit: Commit) -> None:
        if self._lost_for == 0:
            self.commits.append(commit)


@pytest.fixture(autouse=True)
def _briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameter_server, "BACK_S", 1.0)
    monkeypatch.setattr(parameter_server, "LOOK_S", 0.01)


def opened(*shards: Shard, then: Callable[[CoordinatorActor, Worker], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        coordinator = CoordinatorActor(a_spec(update={"mode": "async"}).to_json_dict())
        return await then(coordinator, Worker(0, await coordinator.open(GROUP, LEDGER, (), shards)))

    return asyncio.run(run())


async def a_push(coordinator: CoordinatorActor, worker: Worker) -> Any:
    lease = await coordinator.next(worker)
    assert isinstance(lease, Lease)
    return await coordinator.push(worker, lease.number, 1.0, 0)


def test_no_commit_is_sent_to_a_shard_that_the_coordinator_still_takes_for_lost() -> None:
    shards = Shard(), Shard(lost_for=3)
    assert isinstance(opened(*shards, then=a_push), Pushed)
    assert [len(shard.commits) for shard in shards] == [1, 1]


@pytest.mark.parametrize(
    "lost", [Shard(position=-1), Shard(position=1), Shard(lost_for=10**9)], ids=["empty", "elsewhere", "away"]
)
def test_a_shard_that_is_not_where_the_ledger_is_is_named(lost: Shard) -> None:
    with pytest.raises(ServerLostError, match="shard 1 of the parameter server"):
        opened(Shard(), lost, then=a_push)


async def opens_again(coordinator: CoordinatorActor, shards: tuple[Shard, Shard]) -> Any:
    return await coordinator.open(GROUP, None, (), shards)


async def asks_whether_it_is_live(coordinator: CoordinatorActor, shards: tuple[Shard, Shard]) -> Any:
    return await coordinator.live()


@pytest.mark.parametrize(("ask", "answer"), [(opens_again, 2), (asks_whether_it_is_live, True)])
def test_a_last_push_of_the_group_before_is_not_taken_for_the_loss_of_a_shard(
    ask: Callable[[CoordinatorActor, tuple[Shard, Shard]], Awaitable[Any]], answer: Any
) -> None:
    async def run() -> Any:
        pushes: list[Callable[[], Awaitable[Any]]] = []

        async def once() -> None:
            if pushes:
                await pushes.pop()()

        coordinator = CoordinatorActor(a_spec(update={"mode": "async"}).to_json_dict())
        shards = Shard(answers=once), Shard()
        worker = Worker(0, await coordinator.open(GROUP, LEDGER, (), shards))
        pushes.append(lambda: a_push(coordinator, worker))
        found = await ask(coordinator, shards)
        assert [len(shard.commits) for shard in shards] == [1, 1]
        return found

    assert asyncio.run(run()) == answer


@pytest.mark.parametrize("asks", ["next", "snapshot"])
def test_whoever_waits_for_a_worker_that_cannot_go_on_hears_of_it(asks: str) -> None:
    async def fail_meanwhile(coordinator: CoordinatorActor, worker: Worker) -> None:
        group = replace(GROUP, workers=2, samples=20, bound=0)
        incarnation = await coordinator.open(group, LEDGER, (), ())
        first, other = Worker(0, incarnation), Worker(1, incarnation)
        # No gradient may miss an update: only one of them can hold a lease.
        lease = await coordinator.next(other)
        assert isinstance(lease, Lease)
        asked: dict[str, Callable[[], Awaitable[Any]]] = {
            "next": lambda: coordinator.next(first),
            "snapshot": lambda: coordinator.snapshot(True),
        }
        waits = asyncio.ensure_future(asked[asks]())
        await asyncio.sleep(0.05)
        assert not waits.done()
        await coordinator.fail(other, "the loss is none")
        await asyncio.wait_for(waits, timeout=60)

    with pytest.raises(UserError, match="the loss is none"):
        opened(Shard(), then=fail_meanwhile)
