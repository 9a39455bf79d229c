"""The parameter server as Ray actors: one that puts pushes in order, and one for each shard.

They are made by the driver, on its own node, for as long as the engine runs, and take no slot. A training process
gets handles with its task. Gradients and parameters go between workers and shards through Ray's object store,
where a process reads them without a copy; the coordinator sees numbers only.

A shard executes calls one after the other, those of one caller in the order in which they were made. That is Ray's
promise for actors that are neither threaded nor async, and what the coordinator relies on. The coordinator is
async: workers that have to wait, wait there.

A worker that is lost takes nothing along: its group is started anew and goes on from what the server holds. An actor
that is lost is started anew, empty, by Ray. Who calls it meanwhile, or finds it empty, gets a ServerLostError that
names it, whatever was asked; the next group loads the last checkpoint.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import OwnerDiedError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from scaling_api.spec import ScalingJobSpec
from scaling_training.errors import UserError
from scaling_training.update.coordinator import Coordinator
from scaling_training.update.errors import FencedError, ServerLostError
from scaling_training.update.messages import Closing, Commit, Counts, Group, Pushed, Row, ShardState, Snapshot, Vector
from scaling_training.update.rate import rate_of
from scaling_training.update.samples import Answer, Lease, Worker

# A shard may be behind the coordinator for as long as a commit is on its way.
BEHIND_S = 0.001
# Ray needs a second or two to start a lost actor anew, and a machine under load many.
BACK_S = 120.0
LOOK_S = 0.1

COORDINATOR = "the coordinator of the parameter server"


class ShardActor:
    """A `ParameterShard` in a process of its own."""

    def __init__(self, spec: dict[str, Any], name: str) -> None:
        import torch

        from scaling_training.update.shard import ParameterShard

        torch.set_num_threads(1)
        self._shard = ParameterShard(ScalingJobSpec.model_validate(spec).training.optimizer)
        self._name = name
        self._error: Exception | None = None

    def load(self, state: ShardState) -> None:
        """Start from this state."""
        self._shard.load(state)
        self._error = None

    def position(self) -> int:
        """Pushes applied; -1 when nothing is loaded or one failed."""
        return self._shard.position if self._error is None else -1

    def _check(self) -> None:
        if self._error is not None:
            # Nobody waits for the answer to a commit, so whoever comes next hears of it.
            raise self._error
        if self._shard.position < 0:
            raise ServerLostError(self._name)

    def pull(self, version: int) -> tuple[Vector, Vector] | None:
        """Parameters and buffers; None when this version is not reached yet."""
        self._check()
        return self._shard.pull() if self._shard.position >= version else None

    def stage(self, worker: Worker, lease: int, gradient: Vector, buffers: Vector) -> None:
        """Keep a gradient until it is committed."""
        self._check()
        self._shard.stage(worker, lease, gradient, buffers)

    def commit(self, commit: Commit) -> None:
        """Apply what was staged."""
        try:
            self._check()
            self._shard.commit(commit)
        except Exception as error:
            self._error = error

    def state(self) -> ShardState:
        """Everything but what is staged."""
        self._check()
        return self._shard.state()


class _Port:
    """A shard, for the coordinator."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def commit(self, commit: Commit) -> None:
        self._actor.commit.remote(commit)

    def state(self) -> Any:
        return self._actor.state.remote()


class CoordinatorActor:
    """A `Coordinator` in a process of its own. Its methods are those of `update.server.Server`."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._rate = rate_of(ScalingJobSpec.model_validate(spec).training)
        self._actors: Sequence[Any] = ()
        self._coordinator = Coordinator((), self._rate)
        self._changed = asyncio.Condition()

    async def live(self) -> bool:
        """Whether all shards are where the coordinator is."""
        if not self._coordinator.started:
            return False
        # A worker of the group before may still push: calls reach a shard in order, so its answer is on what was
        # committed before it was asked.
        version = self._coordinator.version
        try:
            positions = await asyncio.gather(*(actor.position.remote() for actor in self._actors))
        except RayActorError:
            return False
        return all(position == version for position in positions)

    async def rows(self) -> list[Row]:
        """Those that it was told."""
        return list(self._coordinator.rows)

    async def open(
        self, group: Group, ledger: dict[str, Any] | None, rows: Sequence[Row], shards: Sequence[Any]
    ) -> int:
        """Let a group take part; the shards have loaded what belongs to ``ledger``.

        ServerLostError when one of them is not where the ledger is.
        """
        loaded = None if ledger is None else int(ledger["version"])
        for number, shard in enumerate(shards):
            # A shard that was lost is back for others before this process hears of it. Nobody waits for the answer to a
            # commit: one that was sent too early would be missing, and its version waited for for ever.
            if not await _is_at(shard.position.remote, lambda: self._coordinator.version if loaded is None else loaded):
                raise ServerLostError(shard_name(number))
        if not self._coordinator.started:
            # Not by the constructor: Ray would have to keep the handles for a restart.
            self._actors = shards
            self._coordinator = Coordinator([_Port(actor) for actor in shards], self._rate)
        incarnation = self._coordinator.open(group, ledger, rows)
        await self._notify()
        return incarnation

    async def next(self, worker: Worker) -> Lease | Closing | Answer:
        """Work, or DONE or FENCED."""
        async with self._changed:
            while (answer := self._opened.next(worker)) is Answer.WAIT:
                await self._changed.wait()
            return answer

    async def push(self, worker: Worker, lease: int, loss_sum: float, skipped: int) -> Pushed | Answer:
        """Have applied what was staged, or FENCED."""
        async with self._changed:
            while (answer := self._opened.push(worker, lease, loss_sum, skipped)) is Answer.WAIT:
                await self._changed.wait()
            self._changed.notify_all()
            return answer

    async def close_epoch(self, row: Row) -> None:
        """The epoch was validated."""
        self._opened.close_epoch(row)
        await self._notify()

    async def stop(self) -> None:
        """Give no more leases."""
        self._opened.stop()
        await self._notify()

    async def fail(self, worker: Worker, sentence: str) -> None:
        """A worker cannot go on."""
        self._opened.fail(worker, sentence)
        await self._notify()

    async def dismiss(self) -> None:
        """The others may go."""
        self._opened.dismiss()
        await self._notify()

    async def snapshot(self, drained: bool) -> Snapshot:
        """Everything at one point."""
        async with self._changed:
            await self._changed.wait_for(lambda: not drained or self._opened.idle or self._opened.failed)
            return self._opened.snapshot()

    async def counts(self) -> Counts:
        """How far it is."""
        return self._opened.counts()

    @property
    def _opened(self) -> Coordinator:
        if not self._coordinator.started:
            raise ServerLostError(COORDINATOR)
        return self._coordinator

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _is_at(ask: Callable[[], Awaitable[int]], version: Callable[[], int]) -> bool:
    """Whether a shard, once this process knows that it is there, is at the version of when it is asked.

    A worker of the group before may push while it answers. False after BACK_S.
    """
    deadline = time.monotonic() + BACK_S
    while True:
        expected = version()
        try:
            return await ask() == expected
        except RayActorError:
            if time.monotonic() > deadline:
                return False
        await asyncio.sleep(LOOK_S)


class RayServer:
    """The server as a training process calls it; see `update.server.Server`. Picklable: it holds handles."""

    def __init__(self, coordinator: Any, shards: Sequence[Any]) -> None:
        self._coordinator = coordinator
        self._shards = list(shards)

    def _get(self, answers: Any) -> Any:
        """What the actors answered; ServerLostError names one that is gone, UserError is what `fail` was told."""
        try:
            return ray.get(answers)
        except RayActorError as error:
            names = {actor._actor_id.hex(): shard_name(number) for number, actor in enumerate(self._shards)}
            raise ServerLostError(names.get(error.actor_id or "", COORDINATOR)) from error
        except OwnerDiedError as error:
            # The states of a snapshot are the coordinator's until they are fetched.
            raise ServerLostError(COORDINATOR) from error
        except RayTaskError as error:
            if isinstance(error.cause, (ServerLostError, UserError)):
                raise error.cause from None
            raise

    @property
    def shards(self) -> int:
        """How many."""
        return len(self._shards)

    def _once_back(self, ask: Callable[[], Any]) -> Any:
        """What the actors answer once those on their way back are there; ServerLostError after BACK_S."""
        deadline = time.monotonic() + BACK_S
        while True:
            try:
                return self._get(ask())
            except ServerLostError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(LOOK_S)

    def live(self) -> bool:
        """Whether a new group can go on from what the server holds."""
        return bool(self._once_back(self._coordinator.live.remote))

    def rows(self) -> list[Row]:
        """The rows of the curves that it knows."""
        rows: list[Row] = self._get(self._coordinator.rows.remote())
        return rows

    def open(self, group: Group, start: Snapshot | None, rows: Sequence[Row]) -> int:
        """Let a group take part."""
        if start is not None:
            pairs = list(zip(self._shards, start.shards, strict=False))
            self._once_back(lambda: [actor.load.remote(state) for actor, state in pairs])
        ledger = None if start is None else start.ledger
        return int(self._get(self._coordinator.open.remote(group, ledger, list(rows), self._shards)))

    def next(self, worker: Worker) -> Lease | Closing | None:
        """Work to do."""
        answer = self._get(self._coordinator.next.remote(worker))
        if answer is Answer.DONE:
            return None
        if answer is Answer.FENCED:
            raise FencedError("another group of workers has taken this one's place")
        if isinstance(answer, Closing):
            states = self._get(list(answer.snapshot.shards))
            return replace(answer, snapshot=replace(answer.snapshot, shards=states))
        assert isinstance(answer, Lease)
        return answer

    def pull(self, version: int) -> Sequence[tuple[Vector, Vector]]:
        """What the shards hold."""
        pulled: list[Any] = self._get([actor.pull.remote(version) for actor in self._shards])
        for index, actor in enumerate(self._shards):
            looked = time.monotonic()
            while pulled[index] is None:
                time.sleep(BEHIND_S)
                if time.monotonic() - looked > LOOK_S:
                    # A coordinator that is lost took the commits that were on their way along.
                    self.counts()
                    looked = time.monotonic()
                pulled[index] = self._get(actor.pull.remote(version))
        return pulled

    def push(
        self, worker: Worker, lease: Lease, parts: Sequence[tuple[Vector, Vector]], loss_sum: float, skipped: int = 0
    ) -> Pushed:
        """Stage at every shard, then have it applied."""
        self._get(
            [actor.stage.remote(worker, lease.number, *part) for actor, part in zip(self._shards, parts, strict=True)]
        )
        answer = self._get(self._coordinator.push.remote(worker, lease.number, loss_sum, skipped))
        if answer is Answer.FENCED:
            raise FencedError("another group of workers has taken this one's place")
        assert isinstance(answer, Pushed)
        return answer

    def close_epoch(self, row: Row) -> None:
        """The epoch was validated."""
        self._get(self._coordinator.close_epoch.remote(row))

    def stop(self) -> None:
        """Give no more leases."""
        self._get(self._coordinator.stop.remote())

    def fail(self, worker: Worker, sentence: str) -> None:
        """A worker cannot go on."""
        self._get(self._coordinator.fail.remote(worker, sentence))

    def dismiss(self) -> None:
        """The others may go."""
        self._get(self._coordinator.dismiss.remote())

    def snapshot(self, *, drained: bool) -> Snapshot:
        """Everything at one point."""
        snapshot: Snapshot = self._get(self._coordinator.snapshot.remote(drained))
        return replace(snapshot, shards=self._get(list(snapshot.shards)))

    def counts(self) -> Counts:
        """How far it is."""
        counts: Counts = self._get(self._coordinator.counts.remote())
        return counts


def shard_name(number: int) -> str:
    """How a person would call a shard."""
    return f"shard {number} of the parameter server"


@contextmanager
def parameter_server(spec: ScalingJobSpec) -> Iterator[RayServer]:
    """A server for a training of this spec, on this node of the connected Ray; gone when the block ends."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # No slot and no core: they have to run wherever the driver runs. Restarted, they are empty, and say so.
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": 0}
    plain = spec.to_json_dict()
    shards = [
        ray.remote(ShardActor).options(**options).remote(plain, shard_name(number))
        for number in range(spec.training.update.shards or 1)
    ]
    coordinator = ray.remote(CoordinatorActor).options(**options, max_concurrency=10_000).remote(plain)
    try:
        yield RayServer(coordinator, shards)
    finally:
        for actor in (coordinator, *shards):
            ray.kill(actor)
