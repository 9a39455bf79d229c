"""What is relied on of Ray's private parts, each by its meaning; the first place to look at after an upgrade."""

from __future__ import annotations

import ast
import inspect
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import scaling_training

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ray.train

    from scaling_training.engine import policies, supervisor, trainer
    from scaling_training.engine.processes import TrainingProcess
    from scaling_training.engine.ray_internals import node
    from scaling_training.engine.ray_internals import train as internals
    from scaling_training.engine.ray_internals.process import RayTrainWorker

SOURCES = Path(scaling_training.__file__).parent
INTERNALS = SOURCES / "engine/ray_internals"


def imported(file: Path) -> Iterator[str]:
    for found in ast.walk(ast.parse(file.read_text())):
        if isinstance(found, ast.Import):
            yield from (name.name for name in found.names)
        elif isinstance(found, ast.ImportFrom) and found.module:
            yield from (f"{found.module}.{name.name}" for name in found.names)


def is_private(name: str) -> bool:
    return name.startswith("ray.") and any(part.startswith("_") or part == "v2" for part in name.split("."))


def test_nothing_private_is_imported_elsewhere() -> None:
    files = [file for file in SOURCES.rglob("*.py") if INTERNALS not in file.parents]
    assert not [(str(file), name) for file in files for name in imported(file) if is_private(name)]
    assert any(is_private(name) for file in INTERNALS.glob("*.py") for name in imported(file))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (trainer.InProcessTrainer, internals.DataParallelTrainer),
        (trainer.InProcessController, internals.TrainController),
        (trainer.InProcessWorkerGroup, internals.WorkerGroup),
        (trainer.NoPlacementGroup, internals.PlacementGroupHandle),
        (policies.SlotPolicy, internals.ScalingPolicy),
        (policies.BudgetPolicy, internals.FailurePolicy),
        (supervisor.Supervisor, internals.WorkerGroupCallback),
        (TrainingProcess, RayTrainWorker),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_overrides_have_the_signature_of_what_they_override(ours: type, theirs: type) -> None:
    """Whatever of theirs is defined anew takes what theirs takes; each class overrides something."""
    anew = [name for name in vars(ours) if callable(getattr(theirs, name, None)) and not name.startswith("__")]
    assert anew or ours is TrainingProcess
    for name in anew:
        taken, given = (inspect.signature(getattr(owner, name)).parameters for owner in (ours, theirs))
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
        fixed = {key for key, parameter in taken.items() if parameter.kind is not parameter.VAR_KEYWORD}
        assert fixed <= set(given), name
        assert takes_any or fixed == set(given), name


def test_a_controller_takes_what_it_is_given_and_a_process_what_a_group_gives_it() -> None:
    assert internals.TrainController.worker_group_cls is internals.WorkerGroup
    assert internals.WorkerGroup._worker_cls is RayTrainWorker
    expected: dict[str, Any] = dict(inspect.signature(internals.TrainController.__init__).parameters)
    assert {"scaling_policy", "failure_policy", "callbacks", "train_run_context", "train_fn_ref"} <= set(expected)
    context = inspect.signature(RayTrainWorker.init_train_context).parameters
    assert {"train_run_context", "distributed_context", "synchronization_actor", "controller_actor"} <= set(context)
    fields = inspect.signature(internals.WorkerGroupContext).parameters
    assert {"run_attempt_id", "train_fn_ref", "num_workers", "resources_per_worker"} <= set(fields)
    assert {"actor", "metadata"} <= set(inspect.signature(internals.Worker).parameters)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_of_the_default_callbacks_are_left_out(tmp_path: Path) -> None:
    """The others start no actor; one that is new here may."""
    one = trainer.InProcessTrainer(
        dict,
        workers=2,
        resources_per_worker={"slot": 1.0},
        scratch=str(tmp_path),
        supervisor=internals.WorkerGroupCallback(),
        scaling_policy=lambda config, processes: None,
        failure_policy=lambda config: None,
        given_up=lambda: False,
    )
    before = {type(callback).__name__ for callback in internals.DataParallelTrainer._create_default_callbacks(one)}
    after = {type(callback).__name__ for callback in one._create_default_callbacks()}
    assert before - after == {"PlacementGroupCleanerCallback", "DatasetsCallback"}
    assert after - before == {"WorkerGroupCallback"}


def test_what_a_process_raised_comes_out_of_its_wrappers() -> None:
    bare = ValueError("shapes")
    assert internals.unwrapped(internals.UserExceptionWithTraceback(bare, "a traceback")) is bare
    assert internals.unwrapped(internals.WorkerHealthCheckFailedError("failed", failure=bare)) is bare
    assert internals.unwrapped(bare) is bare
    assert issubclass(internals.WorkerGroupStartupTimeoutError, Exception)
    assert ray.train.WorkerGroupError("failed", {0: bare}).worker_failures == {0: bare}


def test_free_memory_is_bytes_of_this_machine() -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**20 < node.free_memory_bytes() <= whole


def test_gpus_are_those_of_this_machine() -> None:
    assert node.gpus() == len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
