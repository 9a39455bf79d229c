"""Feeds: the same batches whatever batch size, number of processes or place of resumption."""

from __future__ import annotations

import errno
import gc
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaling_api.spec import DatasetSpec
from scaling_training.data import Dataset, open_dataset
from scaling_training.data.batches import Batch
from scaling_training.data.errors import DataLostError, Ended, LoaderError, MissingPlaceError
from scaling_training.data.feed import Feed
from scaling_training.data.loader import how_ended, kills_for_memory
from scaling_training.data.order import rank_slice
from scaling_training.data.place import Place
from scaling_training.data.requests import Request
from scaling_training.errors import UserError
from tests.object_store import ObjectStore
from tests.unit.scaling_training.data.folders import fill, folder_spec

CPU = torch.device("cpu")
EVERYTHING = {
    "rotation": 10.0,
    "shift": 0.1,
    "zoom": 0.1,
    "shear": 5.0,
    "horizontalFlip": 0.5,
    "verticalFlip": 0.5,
    "fill": "nearest",
    "mixup": 0.4,
    "cutmix": 1.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    fill(root, {"iris": 30, "lily": 12, "rose": 15})
    return root


def digits(**fields: Any) -> Dataset:
    return open_dataset(DatasetSpec.model_validate({"name": "digits", **fields}))


def training_feed(data: Dataset, *, seed: int = 5) -> Feed:
    return data.feed(data.train, device=CPU, seed=seed, training=True)


def by_sample(data: Dataset, *, epoch: int, batch_size: int, world: int) -> dict[int, tuple[bytes, bytes, int]]:
    """What each index became in an epoch, taken by so many processes that know nothing of one another."""
    order = data.order(seed=5, batch_size=batch_size)
    feeds = [training_feed(data) for _ in range(world)]
    found = {}
    cursor = epoch * len(data.train)
    while cursor < (epoch + 1) * len(data.train):
        batch = order.batch_at(cursor)
        for rank, feed in enumerate(feeds):
            mine = batch.indices[rank_slice(len(batch.indices), rank, world)]
            if len(mine):
                got = feed.get(batch.epoch, mine)
                for index, *parts in zip(mine.tolist(), got.inputs, got.targets, got.keys.tolist(), strict=True):
                    found[index] = (parts[0].numpy().tobytes(), parts[1].numpy().tobytes(), parts[2])
        cursor = batch.end
    return found


@pytest.mark.parametrize("crop", [{"area": 0.5}, {"padding": 2}], ids=str)
@pytest.mark.parametrize("sampling", ["natural", "balanced"])
@pytest.mark.parametrize("where", ["memory", "files"])
def test_a_sample_is_the_same_for_any_batch_size_and_number_of_processes(
    folder: Path, where: str, sampling: str, crop: dict[str, float]
) -> None:
    fields = {"augmentation": {**EVERYTHING, "crop": crop}, "sampling": sampling}
    data = open_dataset(folder_spec(folder, **fields)) if where == "files" else digits(**fields)
    alone = by_sample(data, epoch=1, batch_size=len(data.train), world=1)
    shared = by_sample(data, epoch=1, batch_size=50 if where == "memory" else 7, world=3)

    assert len(alone) == len(data.train)
    assert alone == shared
    assert len({key for _, _, key in alone.values()}) == len(alone)
    assert alone != by_sample(data, epoch=2, batch_size=len(data.train), world=1)


def requests(data: Dataset, *, start: int = 0, count: int = 12, size: int = 6) -> Iterator[Request]:
    order = data.order(seed=5, batch_size=size)
    cursor = start
    for _ in range(count):
        batch = order.batch_at(cursor)
        yield Request(batch.epoch, batch.indices)
        cursor = batch.end


def equal(first: Batch, second: Batch) -> bool:
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("inputs", "targets", "keys"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_is_what_get_gives_in_order_and_across_epochs(folder: Path, workers: int) -> None:
    fields = {"augmentation": {**EVERYTHING, "crop": {"area": 0.3}}, "loader": {"workers": workers}}
    data = open_dataset(folder_spec(folder, **fields))
    streamed = list(training_feed(data).stream(requests(data)))
    wanted = [training_feed(data).get(request.epoch, request.indices) for request in requests(data)]

    assert len(streamed) == 12
    assert {request.epoch for request in requests(data)} == {0, 1}
    assert all(map(equal, streamed, wanted))
    later = list(training_feed(data).stream(requests(data, start=30, count=3)))
    assert all(map(equal, later, streamed[5:8]))


def test_processes_read_ahead_from_an_object_store(folder: Path, s3: ObjectStore) -> None:
    import fsspec

    fsspec.filesystem("s3").put(str(folder), f"{s3.uri}/flowers", recursive=True)
    here = open_dataset(folder_spec(folder))
    there = open_dataset(folder_spec(folder, uri=f"{s3.uri}/flowers", loader={"workers": 2}))
    wanted = [training_feed(here).get(request.epoch, request.indices) for request in requests(here)]
    streamed = list(training_feed(there).stream(requests(there)))
    assert len(streamed) == len(wanted)
    assert all(map(equal, streamed, wanted))


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()}


def wait_until_gone(before: set[int]) -> None:
    """Until there are no children but those that were there before."""
    deadline = time.monotonic() + 60
    while children() - before:
        assert time.monotonic() < deadline, children() - before
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_stream_that_is_read_together_is_what_get_gives(folder: Path, workers: int) -> None:
    data = open_dataset(folder_spec(folder, loader={"workers": workers, "prefetch": 2}, augmentation=EVERYTHING))
    feed = training_feed(data)
    indices = data.order(seed=5, batch_size=8).indices(0)
    taken: list[int] = []

    def requests() -> Iterator[Request]:
        # The last ones leave some of the processes without a sample.
        for number, (start, end) in enumerate([(0, 7), (7, 20), (20, 22), (22, 23)]):
            taken.append(number)
            yield Request(0, indices[start:end])

    expected = [feed.get(0, indices[start:end]) for start, end in [(0, 7), (7, 20), (20, 22), (22, 23)]]
    stream = feed.stream(requests(), together=True)
    found = [next(stream)]
    assert len(taken) == 1 + feed.ahead
    found += stream
    for batch, wanted in zip(found, expected, strict=True):
        assert torch.equal(batch.inputs, wanted.inputs)
        assert torch.equal(batch.targets, wanted.targets)


def test_a_file_that_one_of_the_processes_skips_is_counted_by_its_name(tmp_path: Path) -> None:
    data, name = spoilt(tmp_path, unreadable="skip", loader={"workers": 2})
    feed = data.feed(data.train, device=CPU, seed=0)
    last = np.roll(np.arange(len(data.train)), -1)
    batches = list(feed.stream([Request(0, last)], together=True))
    assert [len(batch) for batch in batches] == [len(data.train)]
    assert list(feed.unreadable) == [name]


def test_closing_a_stream_ends_its_processes(folder: Path) -> None:
    data = open_dataset(folder_spec(folder, loader={"workers": 2}))
    before = children()
    stream = training_feed(data).stream(requests(data, count=1000))
    next(stream)
    assert len(children() - before) == 2
    stream.close()
    wait_until_gone(before)


def test_a_reading_process_that_dies_is_named(folder: Path) -> None:
    data = open_dataset(folder_spec(folder, loader={"workers": 1, "prefetch": 1}))
    before = children()
    stream = training_feed(data).stream(requests(data, count=100_000))
    next(stream)
    (worker,) = children() - before
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(LoaderError, match=rf"process {worker} \(exit code -9\) died; .*dataset.loader.workers"):
        for _ in stream:
            pass
    del stream
    gc.collect()
    wait_until_gone(before)


@pytest.mark.parametrize(
    ("codes", "memory", "expected"),
    [
        pytest.param([-9], True, Ended.MEMORY, id="by the kernel, for memory"),
        pytest.param([-9], False, Ended.KILLED, id="by somebody"),
        pytest.param([-15, -9], False, Ended.KILLED, id="in order"),
        pytest.param([-7], False, Ended.MEMORY, id="because shared memory was full"),
        pytest.param([-11], True, Ended.CRASHED, id="by a library's mistake"),
        pytest.param([1], False, Ended.CRASHED, id="by an exit of its own"),
    ],
)
def test_how_a_reading_process_ended(codes: list[int], memory: bool, expected: Ended) -> None:
    assert how_ended(codes, killed_for_memory=memory) is expected


def test_the_kernels_count_of_what_it_ended_for_memory_is_read(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    assert kills_for_memory(events) == 0
    events.write_text("low 0\nhigh 3\nmax 12\noom 2\noom_kill 5\noom_group_kill 0\n")
    assert kills_for_memory(events) == 5


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("unreadable", ["fail", "skip"])
@pytest.mark.parametrize("left", [True, False], ids=["the mount point stays, empty", "the folder is gone"])
def test_a_place_that_vanished_is_no_unreadable_file(tmp_path: Path, workers: int, unreadable: str, left: bool) -> None:
    root = tmp_path / "mount"
    fill(root, {"iris": 10, "rose": 10})
    fields = {"normalization": {"source": "imagenet"}, "loader": {"workers": workers}, "unreadable": unreadable}
    feed = training_feed(open_dataset(folder_spec(root, **fields)))
    root.rename(tmp_path / "elsewhere")
    if left:
        root.mkdir()
    with pytest.raises(DataLostError, match=rf"dataset.uri {root} no longer answers .*look at the mount"):
        list(feed.stream([Request(0, np.arange(4))]))
    with pytest.raises(MissingPlaceError, match=f"dataset.uri {root} does not exist on this machine, or is empty"):
        open_dataset(folder_spec(root))


def test_a_connection_that_breaks_is_not_the_files_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {"iris": 10, "rose": 10})
    data = open_dataset(folder_spec(tmp_path, normalization={"source": "imagenet"}))

    def stale(self: Place, name: str) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Place, "_read", stale)
    with pytest.raises(DataLostError, match="Stale file handle"):
        training_feed(data).get(0, np.arange(2))


def spoilt(root: Path, **fields: Any) -> tuple[Dataset, str]:
    """A folder in which the first training picture cannot be read."""
    fill(root, {"iris": 10, "rose": 10})
    data = open_dataset(folder_spec(root, normalization={"source": "imagenet"}, **fields))
    name = data.train.name_of(0)
    (root / name).write_bytes(b"no picture")
    return data, name


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_file_fails_by_name(tmp_path: Path, workers: int) -> None:
    data, name = spoilt(tmp_path, loader={"workers": workers})
    feed = data.feed(data.train, device=CPU, seed=0)
    with pytest.raises(UserError, match=f"{name} cannot be read .*set dataset.unreadable to skip"):
        list(feed.stream([Request(0, np.arange(len(data.train)))]))


def test_a_skipped_file_is_counted_and_no_evaluation_sees_it(tmp_path: Path) -> None:
    data, name = spoilt(tmp_path, unreadable="skip")
    feed = data.feed(data.train, device=CPU, seed=0)
    batch = feed.get(0, np.arange(len(data.train)))
    assert len(batch) == len(data.train)
    assert list(feed.unreadable) == [name]
    assert sum(map(len, feed.stretch(slice(0, len(feed)), 4))) == len(data.train) - 1


def test_every_file_unreadable_is_one_sentence_from_a_worker_too(tmp_path: Path) -> None:
    fill(tmp_path, {"iris": 10, "rose": 10})
    for path in (tmp_path / "rose").iterdir():
        path.write_bytes(b"")
    fields = {"unreadable": "skip", "loader": {"workers": 1}, "normalization": {"source": "imagenet"}}
    data = open_dataset(folder_spec(tmp_path, **fields))
    feed = data.feed(data.train, device=CPU, seed=0)
    with pytest.raises(
        UserError,
        match=r"^dataset: none of the \d+ samples of the class of rose/\d+.png can be read \(that one: .*; mend",
    ):
        list(feed.stretch(slice(0, len(feed)), 4))


def test_normalisation_brings_training_pixels_to_mean_0_and_deviation_1() -> None:
    data = digits()
    inputs = data.feed(data.train, device=CPU, seed=0).get(0, np.arange(len(data.train))).inputs
    assert inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert inputs.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_a_given_normalisation_is_applied_and_must_fit_the_channels() -> None:
    given = {"source": "given", "mean": [0.5], "std": [0.25]}
    data = digits(normalization=given)
    batch = data.feed(data.train, device=CPU, seed=0).get(0, np.arange(4))
    raw = torch.from_numpy(data.train.read(np.arange(4)).values) / 16
    torch.testing.assert_close(batch.inputs, (raw - 0.5) / 0.25)
    with pytest.raises(UserError, match="normalization imagenet has 3 channels, the images have 1"):
        _ = digits(normalization={"source": "imagenet"}).normalisation


def test_no_worker_is_started_for_data_in_memory() -> None:
    data = digits()
    before = children()
    next(training_feed(data).stream(requests(data)))
    wait_until_gone(before)
