from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from scaling_training.checkpoint import Checkpoints
from scaling_training.checkpoint.manifest import WHOLE_MODEL
from scaling_training.checkpoint.state import POSITION
from scaling_training.parallel.mesh import Layout, MeshShape
from scaling_training.storage import USUAL_RATE, Storage
from scaling_training.train import World
from scaling_training.train.start import Start
from scaling_training.world.heartbeat import Phase

ALONE = Layout(MeshShape(), 1)
WORLD = World(rank=0, size=1, device=torch.device("cpu"))


class Beats:
    """What a watchdog was told last."""

    def __init__(self) -> None:
        self.phase: Phase | None = None
        self.expected_s = 0.0

    def __call__(self, phase: Phase, step: int, *, expected_s: float = 0.0) -> None:
        self.phase, self.expected_s = phase, expected_s


def saved(storage: Storage, step: int, weights: bytes, layout: Layout | None = None) -> int:
    """A whole checkpoint of attempt 1; its size in bytes."""
    kept = Checkpoints(storage, attempt=1, key="key")
    ref = kept.begin(step)
    position = {"layout": layout.to_dict()} if layout is not None else {}
    files = {WHOLE_MODEL: weights, POSITION: json.dumps({"position": position}).encode()}
    entries = {name: kept.write(ref, name, data) for name, data in files.items()}
    kept.commit(ref, entries, epoch=0, metrics={}, best=None, is_best=False)
    return sum(map(len, files.values()))


def test_a_watchdog_is_told_how_long_reading_may_take(tmp_path: Path) -> None:
    storage, beats = Storage(str(tmp_path)), Beats()
    size = saved(storage, 10, b"w" * 1000, ALONE) + saved(storage, 20, b"w" * 3000)
    damaged = tmp_path / f"checkpoints/attempt-0001/step-00000020/{WHOLE_MODEL}"
    damaged.write_bytes(b"v" * 3000)

    start = Start(Checkpoints(storage, attempt=2, key="key"), world=WORLD, resume=None, beat=beats)
    assert start.layout() == ALONE
    assert beats.phase is Phase.START
    assert beats.expected_s == pytest.approx(size / USUAL_RATE)
    taken = start.take()

    assert taken is not None
    assert taken.ref.step == 10
    # Both were read, and the good one goes to every rank besides.
    assert beats.phase is Phase.START
    assert beats.expected_s == pytest.approx((size + taken.manifest.size_bytes) / USUAL_RATE)


@pytest.mark.parametrize(
    ("layout", "is_kept"),
    [(ALONE, True), (Layout(MeshShape(data=2), 1), False), (None, False)],
    ids=["of as many processes", "of others", "none"],
)
def test_the_content_is_in_memory_only_while_its_layout_is_gone_on_with(
    tmp_path: Path, layout: Layout | None, is_kept: bool
) -> None:
    storage = Storage(str(tmp_path))
    saved(storage, 10, b"w" * 1000, layout)
    start = Start(Checkpoints(storage, attempt=2, key="key"), world=WORLD, resume=None)
    assert start.layout() == (layout if is_kept else None)
    assert ("_found" in vars(start)) == is_kept
    with patch.object(Storage, "read", autospec=True, side_effect=Storage.read) as read:
        taken = start.take()
    assert taken is not None
    assert taken.kept[WHOLE_MODEL] == b"w" * 1000
    assert read.called != is_kept


def test_a_start_from_nothing_expects_nothing(tmp_path: Path) -> None:
    beats = Beats()
    start = Start(Checkpoints(Storage(str(tmp_path)), attempt=1, key="key"), world=WORLD, resume=None, beat=beats)
    assert start.take() is None
    assert beats.phase is None
