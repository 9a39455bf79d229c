"""Samples that cannot be read: counted once an epoch, over all processes, in every mode and across a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scaling_api.spec import ScalingJobSpec
from scaling_training.data import open_dataset
from scaling_training.storage import Storage
from scaling_training.train import World
from scaling_training.train.async_loop import train_async
from scaling_training.train.history import parse_rows
from scaling_training.train.loop import train
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.data.folders import fill, folder_spec
from tests.unit.scaling_training.update.served import a_local_server
from tests.unit.scaling_training.worlds import in_world

SPOILT = 3


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of which some of the training split are none."""
    folder = tmp_path_factory.mktemp("flowers")
    fill(folder, {"iris": 30, "rose": 25})
    split = open_dataset(folder_spec(folder)).train
    for index in range(0, 5 * SPOILT, 5):
        (folder / split.name_of(index)).write_bytes(b"no picture")
    return folder


def a_job(flowers: Path, **training: Any) -> ScalingJobSpec:
    dataset = folder_spec(flowers, unreadable="skip", augmentation={"mixup": 0.4}, normalization={"source": "imagenet"})
    return a_spec(batchSize=8, **training).model_copy(update={"dataset": dataset})


def counted(root: Path, history: str) -> list[float]:
    return [row["skippedSamples"] for row in parse_rows(Storage(str(root)).read(history))]


def run(world: World, root: str, flowers: Path, attempt: int, stop_at: int | None) -> str:
    """Mode sync on one rank, which asks for a stop after so many steps; the name of the curves."""
    asked = iter(range(1, 1000))
    outcome = train(
        a_job(flowers),
        storage=Storage(root),
        attempt=attempt,
        world=world,
        observer=lambda progress: None,
        stop_requested=lambda: next(asked) == stop_at,
        key="key",
        resume=None,
    )
    return outcome.history


def test_two_processes_count_each_once_an_epoch_also_across_a_resume_in_its_midst(
    tmp_path: Path, flowers: Path
) -> None:
    in_world(2, run, str(tmp_path), flowers, 1, 3)
    history = in_world(2, run, str(tmp_path), flowers, 2, None)[0]
    assert counted(tmp_path, history) == [SPOILT, SPOILT]


def test_mode_async_counts_them_with_each_push(tmp_path: Path, flowers: Path) -> None:
    spec = a_job(flowers, update={"mode": "async"})
    outcome = train_async(
        spec,
        storage=Storage(str(tmp_path)),
        attempt=1,
        world=World(rank=0, size=1, device=torch.device("cpu")),
        observer=lambda progress: None,
        stop_requested=lambda: False,
        key="key",
        resume=None,
        server=a_local_server(spec),
    )
    assert counted(tmp_path, outcome.history) == [SPOILT, SPOILT]
