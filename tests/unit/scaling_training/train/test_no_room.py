"""Storage that fills up or turns read-only under a run: one sentence, and what was committed is there and good."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from scaling_training import storage as module
from scaling_training.train import World
from tests.unit.scaling_training.train.killed import check_committed, newest_committed
from tests.unit.scaling_training.train.looped import Run, a_run, assert_bit_for_bit, run
from tests.unit.scaling_training.worlds import in_world

SENTENCES = {
    errno.ENOSPC: "storage .* is full: free some space or name another place",
    errno.EROFS: "storage .* refuses access .*; name a place that this user may read and write",
}


def a_spec(size: int) -> Any:
    return a_run(
        "small-cnn",
        bits=32,
        optimizer={"name": "adam"},
        checkpoint={"everySteps": 1, "keep": 2},
        parallelism={"fsdp": size} if size > 1 else {},
    )


def failing(world: World, root: str, size: int, writes: int, error: int) -> Run | None:
    """The run; on its last rank nothing can be written any more after so many files."""
    written = 0
    sync = os.fsync

    def refusing(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written > writes:
            raise OSError(error, os.strerror(error))
        sync(descriptor)

    if world.rank == size - 1:
        module.os.fsync = refusing  # type: ignore[attr-defined]
    return run(world, a_spec(size), root)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    return {size: in_world(size, run, a_spec(size), str(tmp_path_factory.mktemp("straight")))[0] for size in (1, 2)}


# Each file is synced, and then the folder that it lies in. Alone, a save has six files; of two, the second has two.
@pytest.mark.parametrize(
    ("size", "writes", "error"),
    [
        *((1, writes, errno.ENOSPC) for writes in (0, 5, 14, 23, 40)),
        *((2, writes, errno.ENOSPC) for writes in (0, 5, 14)),
        (1, 25, errno.EROFS),
        (2, 9, errno.EROFS),
    ],
)
def test_a_run_that_cannot_write_any_more_says_so_and_goes_on_later(
    tmp_path: Path, straight: dict[int, Run], size: int, writes: int, error: int
) -> None:
    with pytest.raises(AssertionError, match=SENTENCES[error]):
        in_world(size, failing, str(tmp_path), size, writes, error)
    check_committed(tmp_path)
    if size == 1:
        # A row of the curves and what the run starts with are written as well.
        assert newest_committed(tmp_path) >= (writes - 4) // 14
    assert not list(tmp_path.rglob(".tmp-*"))

    assert_bit_for_bit(in_world(size, run, a_spec(size), str(tmp_path))[0], straight[size])
