"""Ray Train's trainer with its controller in the driver's own process.

Ray runs the controller as an actor, so that a trainer may be started from a notebook or a remote client. Our
driver has nothing else to do and must end when the controller does. So the controller runs here, on a thread:
a process less to start (3 s on the way to the first step, and 440 MB), errors that keep their type, and own
policies for failures and sizes that need no round trip. Three helper actors are left out with it, each a process
of 2 s: the one that frees placement groups of a dead controller (our Ray cluster ends with the driver), the one
that shards Ray Data sets (we have none) and the one that asks an autoscaler for nodes (the operator sees to
the pods).

A group's processes are ours to place: see `processes`. What is left of a broken group ends at once, because Ray would
keep it until there is room for the next one.

This leans on internals of Ray: see `ray_internals`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import RunConfig, ScalingConfig

from scaling_training.engine.answers import answers
from scaling_training.engine.backend import ProcessGroupConfig
from scaling_training.engine.processes import ByValue, Processes, TrainingProcess
from scaling_training.engine.ray_internals.train import (
    DataParallelTrainer,
    DatasetsCallback,
    FailurePolicy,
    PlacementGroupCleanerCallback,
    PlacementGroupHandle,
    ScalingPolicy,
    TrainController,
    Worker,
    WorkerGroup,
    WorkerGroupCallback,
    WorkerGroupContext,
    WorkerGroupStartupFailedError,
)

_LEFT_OUT = (PlacementGroupCleanerCallback, DatasetsCallback)


class NoPlacementGroup(PlacementGroupHandle):  # type: ignore[misc]
    """Nothing is reserved: the processes hold their slots themselves."""

    placement_group = None

    def ready(self) -> Any:
        """At once."""
        return ray.put(None)

    def wait(self, timeout_seconds: float = 0) -> bool:
        """At once."""
        return True

    def shutdown(self) -> None:
        """Nothing to free."""


class InProcessWorkerGroup(WorkerGroup):  # type: ignore[misc]
    """A worker group whose controller is no actor, made of processes that may have been started before."""

    def __init__(
        self,
        context: Any,
        group: WorkerGroupContext,
        callbacks: Any,
        processes: Processes,
        given_up: Callable[[], bool],
    ) -> None:
        super().__init__(context, group, callbacks)
        self._processes = processes
        self.given_up = given_up  # whether nobody waits for it any more; its start then ends

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
        answers(
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
            ],
            given_up=self.given_up,
        )

    def _create_placement_group(self, scaling_config: Any, worker_group_context: Any) -> NoPlacementGroup:
        return NoPlacementGroup()

    def _create_workers(
        self, num_workers: int, placement_group: None, resources_per_worker: dict[str, float], **others: None
    ) -> list[Worker]:
        try:
            taken = self._processes.take(num_workers)
        except RayError as error:
            raise WorkerGroupStartupFailedError("a training process was lost in its start") from error
        workers = [Worker(actor, metadata, resources_per_worker) for actor, metadata in taken]
        ranked: list[Worker] = WorkerGroup._assign_worker_ranks(workers)
        return ranked


class InProcessController(TrainController):  # type: ignore[misc]
    """Ray's controller, run by whoever made it; the policy for sizes has started the ``processes``."""

    def __init__(self, *, processes: Processes, given_up: Callable[[], bool], **parts: Any) -> None:
        super().__init__(**parts)
        self._processes = processes
        self._given_up = given_up

    def _make_and_handle_scaling_decision_for_non_running_worker_group(self, controller_state: Any) -> Any:
        if self._worker_group is not None:
            self._shutdown_worker_group()
        return super()._make_and_handle_scaling_decision_for_non_running_worker_group(controller_state)

    def _start_worker_group(self, num_workers: int, resources_per_worker: dict[str, float]) -> None:
        context = WorkerGroupContext(
            run_attempt_id=self._get_run_attempt_id(),
            train_fn_ref=self._train_fn_ref,
            num_workers=num_workers,
            resources_per_worker=resources_per_worker,
        )
        callbacks = self._worker_group_callbacks_to_propagate
        group = InProcessWorkerGroup(self._train_run_context, context, callbacks, self._processes, self._given_up)
        group._start()
        self._worker_group = group


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
        scaling_policy: Callable[[ScalingConfig, Processes], ScalingPolicy],
        failure_policy: Callable[[Any], FailurePolicy],
        given_up: Callable[[], bool],
    ) -> None:
        super().__init__(
            work,
            backend_config=ProcessGroupConfig(),
            scaling_config=ScalingConfig(
                num_workers=workers,
                resources_per_worker=resources_per_worker,
                use_gpu=bool(resources_per_worker.get("GPU")),
            ),
            # Ray demands a place for checkpoints that are reported to it; nothing is.
            run_config=RunConfig(name="train", storage_path=scratch),
        )
        self._supervisor = supervisor
        self._scaling_policy = scaling_policy
        self._failure_policy = failure_policy
        self._given_up = given_up

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        kept = [callback for callback in callbacks if not isinstance(callback, _LEFT_OUT)]
        return [*kept, self._supervisor]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        config = self.scaling_config
        needs = {"num_gpus": config.num_gpus_per_worker, "resources": config.additional_resources_per_worker}
        # An empty environment lets Ray use processes that the node started ahead; all settings come from the node.
        actor = ray.remote(runtime_env={}, num_cpus=0, **needs)(TrainingProcess)
        processes = Processes(lambda **options: actor.options(**options).remote())
        parts["scaling_policy"] = self._scaling_policy(self.scaling_config, processes)
        parts["failure_policy"] = self._failure_policy(self.run_config.failure_config)
        parts["train_fn_ref"] = ByValue(self._get_train_func())
        controller = InProcessController(processes=processes, given_up=self._given_up, **parts)
        asyncio.run(controller.run())
        return controller.get_result()
