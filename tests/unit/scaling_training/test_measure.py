"""An evaluation by several processes is that of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scaling_training.checkpoint import CheckpointRef
from scaling_training.data import TestAccess, open_dataset
from scaling_training.evaluate.metrics import Metrics
from scaling_training.measure import measure
from scaling_training.storage import Storage
from scaling_training.train.loop import train
from scaling_training.world import World
from scaling_training.world.heartbeat import Phase
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.measured import measured_alone
from tests.unit.scaling_training.worlds import in_world

SPEC = a_spec(epochs=2, batchSize=64, ema={"decay": 0.9})
# The test split has 359 samples: three processes count 120, 120 and 119.
SPLITS = ("test", "validation")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, CheckpointRef]:
    folder = str(tmp_path_factory.mktemp("trained"))
    outcome = train(
        SPEC,
        storage=Storage(folder),
        attempt=1,
        world=World(rank=0, size=1, device=torch.device("cpu")),
        observer=lambda progress: None,
        stop_requested=lambda: False,
        key="key",
        resume=None,
    )
    assert outcome.best is not None
    return folder, outcome.best


def measured(
    world: World, folder: str, checkpoint: CheckpointRef, stops: int | None = None
) -> tuple[dict[str, Metrics] | None, list[float], list[tuple[Phase, int]]]:
    dataset = open_dataset(SPEC.dataset)
    shares: list[float] = []
    beats: list[tuple[Phase, int]] = []
    found = measure(
        SPEC,
        {"test": dataset.open_test(TestAccess("evaluate")), "validation": dataset.validation},
        dataset=dataset,
        storage=Storage(folder),
        checkpoint=checkpoint,
        world=world,
        share_done=shares.append,
        stop_requested=lambda: world.rank == stops and bool(shares),
        beat=lambda phase, step, *, expected_s=0.0: beats.append((phase, step)),
    )
    return found, shares, beats


def test_several_processes_count_what_one_does(trained: tuple[str, CheckpointRef]) -> None:
    folder, checkpoint = trained
    alone = measured_alone(SPEC, folder, checkpoint)
    assert (alone["test"].samples, alone["validation"].samples) == (359, 179)
    for found, shares, beats in in_world(3, measured, folder, checkpoint):
        assert found is not None
        assert list(found) == list(SPLITS)
        for split in SPLITS:
            assert found[split].samples == alone[split].samples
            assert found[split].tables["confusion"] == alone[split].tables["confusion"]
            assert found[split].scalars() == pytest.approx(alone[split].scalars(), rel=1e-6)
        assert shares == [0.5, 1.0]
        assert beats == sorted(beats, key=lambda beat: (beat[1], beat[0])), "a watchdog sees it get on"
        assert beats[-1] == (Phase.END, 2)


def test_a_stop_that_reaches_one_process_ends_all(trained: tuple[str, CheckpointRef]) -> None:
    assert [found for found, *_ in in_world(2, measured, *trained, 1)] == [None, None]


def test_it_measures_as_the_validation_does_whatever_the_precision(tmp_path: Path) -> None:
    spec = a_spec(epochs=1, batchSize=64, precision="bf16", labelSmoothing=0.1)
    outcome = train(
        spec,
        storage=Storage(str(tmp_path)),
        attempt=1,
        world=World(rank=0, size=1, device=torch.device("cpu")),
        observer=lambda progress: None,
        stop_requested=lambda: False,
        key="key",
        resume=None,
    )
    assert outcome.best is not None
    found = measured_alone(spec, tmp_path, outcome.best)["validation"].scalars()
    assert found == dict(outcome.metrics)
    assert found["nll"] != found["loss"]
