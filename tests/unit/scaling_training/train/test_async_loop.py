"""The asynchronous loop: alone, where it must be plain training, and in several processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from scaling_api.spec import ScalingJobSpec
from scaling_training.data import open_dataset
from scaling_training.data.feed import Feed
from scaling_training.errors import UserError
from scaling_training.storage import Storage
from scaling_training.train import TrainingProgress, TrainOutcome, World, async_loop
from scaling_training.train.async_loop import DivergedError, train_async
from scaling_training.train.history import Row, parse_rows
from scaling_training.train.loop import train
from scaling_training.train.saving import Keeper
from scaling_training.train.validation import validate
from scaling_training.update.messages import Pushed
from scaling_training.update.samples import Lease, Worker
from scaling_training.update.server import LocalServer, Server
from scaling_training.world.heartbeat import Beat, Phase, silent
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.data.folders import fill, folder_spec
from tests.unit.scaling_training.update.served import a_local_server, reach, served
from tests.unit.scaling_training.worlds import in_world, started

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
STEPS = 6  # of a_spec() with one worker: two epochs of three batches


def never() -> bool:
    return False


def an_async_spec(**training: Any) -> ScalingJobSpec:
    return a_spec(**{"update": {"mode": "async"}, **training})


def trained(
    root: Path,
    spec: ScalingJobSpec,
    *,
    attempt: int = 1,
    observer: Callable[[TrainingProgress], None] = lambda progress: None,
    stop_requested: Callable[[], bool] = never,
    server: Server | None = None,
    beat: Beat = silent,
) -> TrainOutcome:
    return train_async(
        spec,
        storage=Storage(str(root)),
        attempt=attempt,
        world=ALONE,
        observer=observer,
        stop_requested=stop_requested,
        key="key",
        resume=None,
        server=server or a_local_server(spec),
        beat=beat,
    )


def rows_of(root: Path, outcome: TrainOutcome) -> list[Row]:
    rows = parse_rows(Storage(str(root)).read(outcome.history))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def weights(root: Path, outcome: TrainOutcome) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    loaded: dict[str, torch.Tensor] = load(Storage(str(root)).read(f"{outcome.checkpoint.folder}/model.safetensors"))
    # A counter that takes no part in anything; the server does not keep it.
    return {name: value for name, value in loaded.items() if not name.endswith("num_batches_tracked")}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], list[Row]]:
    root = tmp_path_factory.mktemp("straight")
    outcome = trained(root, an_async_spec())
    assert (outcome.stopped, outcome.epoch, outcome.step, outcome.staleness) == (False, 2, STEPS, [STEPS])
    return weights(root, outcome), rows_of(root, outcome)


def test_one_worker_takes_the_steps_of_mode_sync(tmp_path: Path) -> None:
    ours = trained(tmp_path / "async", an_async_spec())
    plain = train(
        a_spec(),
        storage=Storage(str(tmp_path / "sync")),
        attempt=1,
        world=ALONE,
        observer=lambda progress: None,
        stop_requested=never,
        key="key",
        resume=None,
    )
    # Apart from the last bits: a library of kernels may take another one for tensors that lie otherwise in memory.
    torch.testing.assert_close(
        weights(tmp_path / "async", ours), weights(tmp_path / "sync", plain), rtol=1e-5, atol=1e-6
    )
    for found, row in zip(rows_of(tmp_path / "async", ours), rows_of(tmp_path / "sync", plain), strict=True):
        assert found == pytest.approx({**row, "stalenessMean": 0.0, "stalenessMax": 0})


class Watched:
    """Notes in which phase each thing is done."""

    def __init__(self, server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[tuple[str, Phase]] = []
        self._phase = Phase.START
        for name in ("next", "pull", "push", "snapshot", "close_epoch"):
            monkeypatch.setattr(server, name, self._noted(name, getattr(server, name)))
        for name in ("add_row", "save", "wait"):
            monkeypatch.setattr(Keeper, name, self._noted(name, getattr(Keeper, name)))
        monkeypatch.setattr(async_loop, "validate", self._noted("validate", validate))
        monkeypatch.setattr(Feed, "stream", self._streamed(Feed.stream))

    def beat(self, phase: Phase, step: int, *, expected_s: float = 0.0) -> None:
        self._phase = phase

    def _noted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **more: Any) -> Any:
            self.done.append((name, self._phase))
            return call(*arguments, **more)

        return noted

    def _streamed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def streamed(*arguments: Any, **more: Any) -> Any:
            batches = call(*arguments, **more)
            with closing(batches):
                while True:
                    self.done.append(("read", self._phase))
                    yield next(batches)

        return streamed


def test_a_watchdog_is_told_what_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = an_async_spec(accumulation=2, checkpoint={"everySteps": 2})
    server = a_local_server(spec)
    watched = Watched(server, monkeypatch)
    trained(tmp_path, spec, server=server, beat=watched.beat)
    lease = [
        ("next", Phase.WAIT),
        ("pull", Phase.DATA),
        ("read", Phase.DATA),
        ("read", Phase.DATA),
        ("push", Phase.STEP),
    ]
    assert watched.done[:10] == lease * 2
    assert set(watched.done[10:]) == {
        *lease,
        ("snapshot", Phase.SAVE),
        ("save", Phase.SAVE),
        ("wait", Phase.SAVE),
        ("validate", Phase.VALIDATION),
        ("add_row", Phase.SAVE),
        ("close_epoch", Phase.SAVE),
    }


def test_a_watchdog_is_told_what_a_resume_may_take(tmp_path: Path) -> None:
    expected: list[float] = []

    def beat(phase: Phase, step: int, *, expected_s: float = 0.0) -> None:
        if phase is Phase.START:
            expected.append(expected_s)

    trained(tmp_path, an_async_spec(epochs=1), beat=beat)
    assert not expected
    trained(tmp_path, an_async_spec(epochs=1), attempt=2, beat=beat)
    assert max(expected) > 0


def over_files(spec: ScalingJobSpec, folder: Path, workers: int) -> ScalingJobSpec:
    fields: dict[str, Any] = {"augmentation": {"crop": {"area": 0.5}, "mixup": 0.4}, "loader": {"workers": workers}}
    return spec.model_copy(update={"dataset": folder_spec(folder, **fields)})


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flowers")
    fill(folder, {"iris": 40, "rose": 31})
    return folder


def test_one_worker_with_reading_processes_takes_the_steps_of_mode_sync(tmp_path: Path, flowers: Path) -> None:
    fields: dict[str, Any] = {"batchSize": 8, "accumulation": 2, "deterministic": True}
    ours = trained(tmp_path / "async", over_files(an_async_spec(**fields), flowers, 2))
    plain = train(
        over_files(a_spec(**fields), flowers, 0),
        storage=Storage(str(tmp_path / "sync")),
        attempt=1,
        world=ALONE,
        observer=lambda progress: None,
        stop_requested=never,
        key="key",
        resume=None,
    )
    assert ours.step == plain.step > 10
    # Apart from the last bits: a library of kernels may take another one for tensors that lie otherwise in memory.
    torch.testing.assert_close(
        weights(tmp_path / "async", ours), weights(tmp_path / "sync", plain), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("lives", [True, False], ids=["the server lives", "the server is lost, too"])
def test_what_was_read_ahead_of_a_lost_worker_is_read_again(tmp_path: Path, flowers: Path, lives: bool) -> None:
    spec = over_files(an_async_spec(batchSize=8, checkpoint={"everySteps": 3}), flowers, 2)
    straight = trained(tmp_path / "straight", spec)
    asked = iter(range(1, 100))
    server = a_local_server(spec)

    def die() -> bool:
        if next(asked) == 5:
            raise Killed
        return False

    with pytest.raises(Killed):
        trained(tmp_path / "lost", spec, stop_requested=die, server=server)
    again = trained(tmp_path / "lost", spec, server=server if lives else None)
    assert sum(again.staleness) == again.step == straight.step
    assert_equal(weights(tmp_path / "lost", again), weights(tmp_path / "straight", straight))


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_stopped_after_any_push_and_resumed_is_the_straight_run_bit_for_bit(
    tmp_path: Path, straight: tuple[dict[str, torch.Tensor], list[Row]], step: int
) -> None:
    asked = iter(range(1000))
    stopped = trained(tmp_path, an_async_spec(), stop_requested=lambda: next(asked) >= step)
    assert stopped.stopped

    resumed = trained(tmp_path, an_async_spec(update={"mode": "async"}), attempt=2)
    assert (resumed.stopped, resumed.step, list(resumed.staleness)) == (False, STEPS, [STEPS])
    assert_equal(weights(tmp_path, resumed), straight[0])
    assert rows_of(tmp_path, resumed) == straight[1]


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("lives", [True, False], ids=["the server lives", "the server is lost, too"])
@pytest.mark.parametrize("writes", [2, 6, 11])
def test_killed_at_a_write_and_resumed_is_the_straight_run_bit_for_bit(
    tmp_path: Path,
    straight: tuple[dict[str, torch.Tensor], list[Row]],
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
    lives: bool,
) -> None:
    left = iter(range(writes))
    write = Storage.write

    def write_or_die(self: Storage, name: str, data: bytes) -> None:
        if next(left, None) is None:
            raise Killed
        write(self, name, data)

    spec = an_async_spec(checkpoint={"everySteps": 2})
    server = a_local_server(spec)
    with monkeypatch.context() as patched:
        patched.setattr(Storage, "write", write_or_die)
        with pytest.raises(Killed):
            trained(tmp_path, spec, server=server)
    resumed = trained(tmp_path, spec, server=server if lives else None)
    assert_equal(weights(tmp_path, resumed), straight[0])
    assert rows_of(tmp_path, resumed) == straight[1]


def test_a_loss_that_is_not_finite_never_reaches_the_server(tmp_path: Path) -> None:
    spec = an_async_spec(
        batchSize=16,
        optimizer={"name": "sgd", "learningRate": 10.0, "weightDecay": 1.0},
        schedule={"name": "constant"},
    )
    server = a_local_server(spec)
    with pytest.raises(UserError, match=r"training (loss|gradient's norm) became (nan|inf) in epoch 1.*Rate \(10\)"):
        trained(tmp_path, spec, server=server)
    assert server.counts().loss_sum < float("inf")


MANY: dict[str, Any] = {
    "batchSize": 48,
    "epochs": 3,
    "optimizer": {"name": "adam", "learningRate": 0.01},
    "update": {"mode": "async", "shards": 2},
    "checkpoint": {"everySteps": 40},
}


def run(
    world: World,
    root: str,
    place: Any,
    attempt: int,
    slow: float,
    stop_at: int | None,
    die_at: int | None,
    files: Path | None = None,
) -> Any:
    """train_async on one rank; rank 2 sleeps before each batch, rank 0 may ask for a stop, or die."""
    asked = iter(range(1, 10_000))
    server = reach(place)
    pull = server.pull

    def slowly(version: int) -> Any:
        time.sleep(slow if world.rank == 2 else 0)
        return pull(version)

    server.pull = slowly
    ask = server.next

    def work(worker: Worker) -> Any:
        answer = ask(worker)
        if answer is None and world.rank != 0:
            newest = max(Path(root).glob(f"checkpoints/attempt-{attempt:04d}/*/MANIFEST.json"))
            # Whoever has left waits in a collective, which has a time limit, for what rank 0 still does.
            assert int(newest.parent.name.split("-")[1]) == server.counts().version
        return answer

    server.next = work

    def stop_requested() -> bool:
        turn = next(asked)
        if turn == die_at:
            raise Killed
        return turn == stop_at

    spec = an_async_spec(**MANY)
    return train_async(
        spec if files is None else over_files(spec, files, 1),
        storage=Storage(root),
        attempt=attempt,
        world=world,
        observer=lambda progress: None,
        stop_requested=stop_requested,
        key="key",
        resume=None,
        server=server,
    )


def assert_whole(root: Path, outcome: TrainOutcome, server: LocalServer) -> None:
    """Three epochs of every sample, and a model that learned."""
    assert (outcome.stopped, outcome.epoch) == (False, 3)
    assert server.counts().samples == 3 * 1259
    assert sum(outcome.staleness) == outcome.step == server.counts().version
    rows = rows_of(root, outcome)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["trainLoss"] < rows[0]["trainLoss"]
    assert rows[-1]["valAccuracy"] > 0.3  # 0.1 is chance


def test_three_processes_of_which_one_is_slow_train_on_every_sample_once(tmp_path: Path) -> None:
    server = a_local_server(an_async_spec(**MANY))
    with served(server) as place:
        outcomes = in_world(3, run, str(tmp_path), place, 1, 0.02, None, None)
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert_whole(tmp_path, outcomes[0], server)
    assert len(outcomes[0].staleness) - 1 <= 12, "four for each worker"
    assert sum(outcomes[0].staleness[1:]) > 0


def test_processes_that_read_ahead_for_themselves_train_on_every_sample_once(tmp_path: Path, flowers: Path) -> None:
    server = a_local_server(an_async_spec(**MANY))
    with served(server) as place:
        outcomes = in_world(3, run, str(tmp_path), place, 1, 0.02, None, None, flowers)
    assert (outcomes[0].stopped, outcomes[0].epoch) == (False, 3)
    samples = len(open_dataset(folder_spec(flowers)).train)
    assert server.counts().samples == 3 * samples
    assert sum(outcomes[0].staleness) == outcomes[0].step == server.counts().version


def test_three_processes_stopped_go_on_as_two(tmp_path: Path) -> None:
    with served(a_local_server(an_async_spec(**MANY))) as place:
        stopped = in_world(3, run, str(tmp_path), place, 1, 0.0, 2, None)
    assert {outcome.stopped for outcome in stopped} == {True}
    server = a_local_server(an_async_spec(**MANY))
    with served(server) as place:
        outcomes = in_world(2, run, str(tmp_path), place, 2, 0.0, None, None)
    assert_whole(tmp_path, outcomes[0], server)


@pytest.mark.parametrize("lives", [True, False], ids=["the server lives", "the server is lost, too"])
def test_a_lost_worker_costs_no_sample_and_counts_none_twice(tmp_path: Path, lives: bool) -> None:
    server = a_local_server(an_async_spec(**MANY))
    with served(server) as place:
        with pytest.raises(AssertionError, match="Killed"):
            in_world(3, run, str(tmp_path), place, 1, 0.0, None, 2)
        before = server.counts().version
        server = server if lives else a_local_server(an_async_spec(**MANY))
        if lives:
            outcomes = in_world(3, run, str(tmp_path), place, 1, 0.0, None, None)
    if not lives:
        with served(server) as place:
            outcomes = in_world(3, run, str(tmp_path), place, 1, 0.0, None, None)
    assert before > 0
    assert_whole(tmp_path, outcomes[0], server)


def diverged(world: World, root: str, place: Any, stops: bool) -> tuple[str, int]:
    """Rank 1 diverges while rank 0 saves: what this rank raises, and the checkpoints that are committed by then."""
    saving = Path(root) / "saving"
    write, compute = Storage.write, async_loop._Worker.compute_and_push

    def write_slowly(self: Storage, name: str, data: bytes) -> None:
        if name.endswith("/model.safetensors"):
            saving.touch()
            time.sleep(3.0)
        write(self, name, data)

    def compute_or_diverge(self: Any, lease: Lease) -> Pushed:
        if world.rank == 0:
            return compute(self, lease)
        while not saving.exists():
            time.sleep(0.01)
        time.sleep(0.5)  # rank 0 waits for what this one should have pushed
        raise DivergedError("the loss is none")

    with (
        patch.object(Storage, "write", write_slowly),
        patch.object(async_loop._Worker, "compute_and_push", compute_or_diverge),
    ):
        try:
            train_async(
                an_async_spec(**{**MANY, "checkpoint": {"everySteps": 2}}),
                storage=Storage(root),
                attempt=1,
                world=world,
                observer=lambda progress: None,
                stop_requested=lambda: stops and saving.exists(),
                key="key",
                resume=None,
                server=reach(place),
            )
        except UserError as error:
            return str(error), len(list(Path(root).glob("checkpoints/*/*/MANIFEST.json")))
    return "it trained on", 0


@pytest.mark.parametrize("stops", [False, True], ids=["amid training", "amid a stop"])
def test_a_rank_that_diverges_lets_rank_0_finish_its_save(tmp_path: Path, stops: bool) -> None:
    server = a_local_server(an_async_spec(**MANY))
    with served(server) as place, started(2, diverged, str(tmp_path), place, stops) as running:
        # Rank 1 first: rank 0 would wait for it for ever if it had said nothing.
        for pipe in reversed(running.pipes):
            error, said = pipe.recv()
            assert error is None
            sentence, committed = said
            assert sentence == "the loss is none"
            assert committed >= 1
