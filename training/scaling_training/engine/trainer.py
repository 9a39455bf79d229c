"""Ray Train's trainer with its controller in the driver's own process.

Ray runs the controller as an actor, so that a trainer may be started from a notebook or a remote client. Our
driver has nothing else to do and must end when the controller does. So the controller runs here, on a thread:
a process less to start (3 s on the way to the first step, and 440 MB), errors that keep their type, and own
policies for failures and sizes that need no round trip. Three helper actors are left out with it, each a process
of 2 s: the one that frees placement groups of a dead controller (our Ray cluster ends with the driver), the one
that shards Ray Data sets (we have none) and the one that asks an autoscaler for nodes (the operator sees to
the pods).

This leans on internals of Ray, which is why its version is pinned; tests/unit/scaling_training/engine
checks that what is overridden here still exists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import FailurePolicy
from ray.train.v2._internal.execution.scaling_policy import ScalingPolicy
from ray.train.v2._internal.execution.worker_group import RayTrainWorker, WorkerGroup
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from scaling_training.engine.backend import ProcessGroupConfig
from scaling_training.train import preload

_LEFT_OUT = (PlacementGroupCleanerCallback, DatasetsCallback)


class TrainingProcess(RayTrainWorker):  # type: ignore[misc]
    """Begins to import torch while Ray still makes its rounds."""

    def __init__(self) -> None:
        super().__init__()
        preload.begin(preload.OPTIMIZER_MODULES)


class InProcessWorkerGroup(WorkerGroup):  # type: ignore[misc]
    """A worker group whose controller is no actor."""

    _worker_cls = TrainingProcess

    def _start(self) -> None:
        try:
            super()._start()
        except Exception:
            # Ray forgets a group that failed after its processes were up: they would keep their slots for ever.
            if self.has_started():
                self._worker_group_state.shutdown()
                self._clear_state()
            raise

    def _init_train_context_on_workers(self, workers: Any, sync_actor: Any, train_context_args: dict[str, Any]) -> None:
        # The controller's handle serves ray.train.report, which we do not use: checkpoints and curves are our own.
        ray.get(
            [
                worker.actor.init_train_context.remote(
                    train_run_context=self._train_run_context,
                    distributed_context=worker.distributed_context,
                    synchronization_actor=sync_actor,
                    storage_context=self._storage_context,
                    worker_callbacks=self._worker_callbacks_to_propagate,
                    controller_actor=None,
                    **{name: values[index] for name, values in train_context_args.items()},
                )
                for index, worker in enumerate(workers)
            ]
        )

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> dict[str, Any]:
        # An empty one lets Ray use processes that the node started ahead; all settings come from the node.
        return {}


class InProcessController(TrainController):  # type: ignore[misc]
    """Ray's controller, run by whoever made it."""

    worker_group_cls = InProcessWorkerGroup


class InProcessTrainer(DataParallelTrainer):  # type: ignore[misc]
    """A trainer that runs its controller in the calling thread; `fit` returns when training ends."""

    def __init__(
        self,
        work: Callable[[], dict[str, Any]],
        *,
        workers: int,
        resources_per_worker: dict[str, float],
        scratch: str,
        supervisor: WorkerGroupCallback,
        scaling_policy: Callable[[ScalingConfig], ScalingPolicy],
        failure_policy: Callable[[Any], FailurePolicy],
    ) -> None:
        super().__init__(
            work,
            backend_config=ProcessGroupConfig(),
            scaling_config=ScalingConfig(
                num_workers=workers,
                resources_per_worker=resources_per_worker,
                use_gpu=bool(resources_per_worker.get("GPU")),
                placement_strategy="PACK",
            ),
            # Ray demands a place for checkpoints that are reported to it; nothing is.
            run_config=RunConfig(name="train", storage_path=scratch),
        )
        self._supervisor = supervisor
        self._scaling_policy = scaling_policy
        self._failure_policy = failure_policy

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        kept = [callback for callback in callbacks if not isinstance(callback, _LEFT_OUT)]
        return [*kept, self._supervisor]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        parts["scaling_policy"] = self._scaling_policy(self.scaling_config)
        parts["failure_policy"] = self._failure_policy(self.run_config.failure_config)
        controller = InProcessController(**parts)
        asyncio.run(controller.run())
        return controller.get_result()
