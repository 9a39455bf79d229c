"""What the trainer overrides in Ray must exist, with the parameters that it expects."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray import cloudpickle as pickle
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback
    from ray.train.v2._internal.execution.controller import TrainController
    from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
    from ray.train.v2._internal.execution.worker_group import RayTrainWorker, WorkerGroup
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from scaling_training.engine import policies, trainer
    from scaling_training.engine.sizing import Sizing

# What Ray sends with a call; what is larger goes through the object store.
INLINE_BYTES = 100 * 1024
ELASTIC = Sizing(least=1, wanted=2, most=8, gpus_per_worker=0)
FIXED = Sizing(least=2, wanted=2, most=2, gpus_per_worker=0)


@pytest.mark.parametrize(
    ("ours", "theirs", "method"),
    [
        (trainer.InProcessWorkerGroup, WorkerGroup, "_init_train_context_on_workers"),
        (trainer.InProcessWorkerGroup, WorkerGroup, "_create_placement_group"),
        (trainer.InProcessWorkerGroup, WorkerGroup, "_start"),
        (
            trainer.InProcessController,
            TrainController,
            "_make_and_handle_scaling_decision_for_non_running_worker_group",
        ),
        (trainer.InProcessController, TrainController, "_start_worker_group"),
        (trainer.InProcessTrainer, DataParallelTrainer, "_create_default_callbacks"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_overrides_have_the_signature_of_what_they_override(ours: type, theirs: type, method: str) -> None:
    def names(owner: type) -> list[str]:
        return list(inspect.signature(getattr(owner, method)).parameters)

    assert names(ours) == names(theirs)


def test_ray_has_the_hooks_that_are_used() -> None:
    assert TrainController.worker_group_cls is WorkerGroup
    assert WorkerGroup._worker_cls is RayTrainWorker
    assert {"num_workers", "placement_group", "resources_per_worker"} <= set(
        inspect.signature(WorkerGroup._create_workers).parameters
    )
    expected: dict[str, Any] = dict(inspect.signature(TrainController.__init__).parameters)
    assert {"scaling_policy", "failure_policy", "callbacks", "train_run_context"} <= set(expected)
    context = inspect.signature(RayTrainWorker.init_train_context).parameters
    assert {"train_run_context", "distributed_context", "synchronization_actor", "controller_actor"} <= set(context)


@pytest.mark.parametrize(
    ("slots", "sizing", "waited_s", "workers"),
    [
        pytest.param(2, ELASTIC, 0.0, 2, id="all that was promised: at once"),
        pytest.param(5, ELASTIC, 0.0, 5, id="more than promised: all of them"),
        pytest.param(20, ELASTIC, 0.0, 8, id="no more than the most"),
        pytest.param(1, ELASTIC, 14.9, None, id="fewer: wait a while"),
        pytest.param(1, ELASTIC, 15.0, 1, id="fewer for long: start"),
        pytest.param(0, ELASTIC, 99.0, None, id="below the least: wait for ever"),
        pytest.param(2, FIXED, 0.0, 2, id="fixed: start"),
        pytest.param(1, FIXED, 99.0, None, id="fixed: wait for all"),
    ],
)
def test_workers_for(slots: int, sizing: Sizing, waited_s: float, workers: int | None) -> None:
    assert policies.workers_for(slots, sizing, waited_s=waited_s) == workers


def ends() -> dict[str, Any]:
    return {"ended": True}


def test_no_process_has_to_fetch_the_training_function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parts: dict[str, Any] = {}

    class Controller:
        def __init__(self, **given: Any) -> None:
            parts.update(given)

        async def run(self) -> None: ...

        def get_result(self) -> None: ...

    monkeypatch.setattr(trainer, "InProcessController", Controller)
    one = trainer.InProcessTrainer(
        ends,
        workers=2,
        resources_per_worker={"slot": 1.0},
        scratch=str(tmp_path),
        supervisor=WorkerGroupCallback(),
        scaling_policy=lambda config, processes: FixedScalingPolicy(config),
        failure_policy=lambda config: DefaultFailurePolicy(config),
        given_up=lambda: False,
    )
    one._initialize_and_run_controller(train_fn_ref="a reference into the object store")
    sent = pickle.dumps(parts["train_fn_ref"])
    assert len(sent) < INLINE_BYTES
    assert pickle.loads(sent).get()() == {"ended": True}
