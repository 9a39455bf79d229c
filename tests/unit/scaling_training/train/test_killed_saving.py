"""Killed at any moment of a save, the run goes on from what is committed and ends as the undisturbed one."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from scaling_training.storage import Storage
from scaling_training.train import TrainOutcome, World
from scaling_training.train.history import parse_rows
from scaling_training.train.loop import train
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.worlds import in_world

Result = tuple[bytes, bytes, list[dict[str, float]]]


def run(world: World, root: str, kill_at: str | None = None) -> TrainOutcome:
    """Two epochs of three steps, saved after each two; rank 0 dies at the point of storage that ``kill_at`` names."""
    if kill_at is not None and world.is_first:
        _arm(kill_at)
    return train(
        a_spec(checkpoint={"everySteps": 2, "keep": 1}),
        storage=Storage(root),
        attempt=1,
        world=world,
        observer=lambda progress: None,
        stop_requested=lambda: False,
        key="key",
        resume=None,
    )


def _arm(kill_at: str) -> None:
    when, operation, name = kill_at.split()
    original = getattr(Storage, operation)

    def deadly(self: Storage, path: str, *rest: object, **named: object) -> None:
        if path.endswith(name) and when == "before":
            signal.raise_signal(signal.SIGKILL)
        original(self, path, *rest, **named)
        if path.endswith(name):
            signal.raise_signal(signal.SIGKILL)

    setattr(Storage, operation, deadly)


def result(root: Path, outcome: TrainOutcome) -> Result:
    folder = root / outcome.checkpoint.folder
    rows = [{**row, "seconds": 0} for row in parse_rows((root / outcome.history).read_bytes())]
    return (folder / "model.safetensors").read_bytes(), (folder / "optimizer.safetensors").read_bytes(), rows


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Result:
    root = tmp_path_factory.mktemp("straight")
    return result(root, in_world(1, run, str(root))[0])


@pytest.mark.parametrize(
    "kill_at",
    [
        "before write step-00000002/model.safetensors",
        "after write step-00000004/optimizer.safetensors",
        "before write step-00000004/optimizer.safetensors",
        "before write step-00000004/MANIFEST.json",
        "after write step-00000004/MANIFEST.json",
        # Retention: the manifest of the one before is gone, its files are not.
        "after delete step-00000002/MANIFEST.json",
        "before delete step-00000003",
        "before write step-00000006/MANIFEST.json",
    ],
)
def test_killed_while_it_saves(tmp_path: Path, straight: Result, kill_at: str) -> None:
    with pytest.raises((AssertionError, EOFError)):
        in_world(1, run, str(tmp_path), kill_at)
    assert result(tmp_path, in_world(1, run, str(tmp_path))[0]) == straight


def test_rank_0_of_two_killed_before_the_manifest(tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    straight = result(undisturbed, in_world(2, run, str(undisturbed))[0])
    with pytest.raises((AssertionError, EOFError)):
        in_world(2, run, str(disturbed), "before write step-00000004/MANIFEST.json")
    assert result(disturbed, in_world(2, run, str(disturbed))[0]) == straight
