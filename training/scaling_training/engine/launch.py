"""Training on Ray, from nothing: connect to the cluster or start one here, train, leave nothing behind."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from scaling_api.driver import RAY_RESOURCE_SLOT
from scaling_api.spec import ScalingJobSpec
from scaling_training.engine import session
from scaling_training.engine.ray_health import Silent, ray_servers, watched
from scaling_training.engine.ray_internals import node
from scaling_training.engine.run import StoppedError, Watch, run_evaluation, run_training
from scaling_training.engine.sizing import Sizing, plan_workers, unused_gpus
from scaling_training.engine.worker import WorkerTask
from scaling_training.train.types import TrainOutcome
from scaling_training.update.modes import update_mode

log = logging.getLogger(__name__)

# What Ray Train takes 2 s to import. That runs on a thread, beside Ray's own start.
_MODULES = ("scaling_training.engine.trainer", "scaling_training.engine.policies", "scaling_training.engine.supervisor")


@dataclass(frozen=True, slots=True)
class _Connection:
    """What a group of processes on a connected Ray needs."""

    sizing: Sizing  # as it was when the connection was made
    sizing_now: Callable[[], Sizing]
    resources: dict[str, float]
    scratch: str
    unused: str | None  # a sentence about GPUs that are not used


class RayEngine:
    """The engine on the Ray cluster at ``address``, or on one of our own on this machine when that is None.

    ``silent`` is called on another thread when that Ray does not answer any more, and has to end the process.
    """

    def __init__(self, spec: ScalingJobSpec, address: str | None, silent: Callable[[Silent], None]) -> None:
        self._spec = spec
        self._address = address
        self._silent = silent

    def __call__(self, task: WorkerTask, watch: Watch) -> TrainOutcome:
        """Train; see `run_training` for what is raised."""
        with self._connected(watch) as connection, self._server() as server:
            watch.say("; ".join(filter(None, ("starting the training processes", connection.unused))))
            return run_training(
                replace(task, server=server, gpus=connection.sizing.gpus_per_worker),
                sizing=connection.sizing_now,
                resources=connection.resources,
                scratch=connection.scratch,
                watch=watch,
            )

    def evaluate(self, task: WorkerTask, watch: Watch) -> dict[str, Any]:
        """Evaluate on the slots that are there; see `run_evaluation`."""
        with self._connected(watch) as connection:
            # Each has the whole model, so any number will do.
            sizing = replace(connection.sizing, least=1, wanted=1, group=1)
            watch.say("starting the processes that evaluate")
            return run_evaluation(
                replace(task, gpus=connection.sizing.gpus_per_worker),
                sizing=lambda: sizing,
                resources=connection.resources,
                scratch=connection.scratch,
                watch=watch,
            )

    @contextmanager
    def _connected(self, watch: Watch) -> Iterator[_Connection]:
        session.tune_environment()
        local = self._address is None
        here = node.gpus() if local else 0

        def sizing_now() -> Sizing:
            return plan_workers(self._spec, on_cluster=not local, local_gpus=here, edited=watch.bounds())

        sizing = sizing_now()
        unused = unused_gpus(self._spec, sizing, on_cluster=not local, local_gpus=here)
        if unused is not None:
            log.warning("%s", unused)
        if local:
            session.share_cores(sizing.wanted)
        imports = threading.Thread(target=_import_all, name="import-ray-train", daemon=True)
        imports.start()
        watch.say("starting Ray" if local else "connecting to Ray")
        connection: AbstractContextManager[Path] = (
            session.attached(self._address)
            if self._address is not None
            else session.local(sizing.most, sizing.gpus_per_worker * sizing.most)
        )
        resources = {RAY_RESOURCE_SLOT: 1.0}
        if sizing.gpus_per_worker:
            resources["GPU"] = float(sizing.gpus_per_worker)
        with connection as scratch, watched(ray_servers(), self._silent):
            watch.mark("rayReady")
            imports.join()
            session.silence_logs()
            watch.mark("trainImported")
            if watch.stop_requested():
                # Ray took seconds to start, in which somebody may have thought better of it.
                raise StoppedError
            yield _Connection(sizing, sizing_now, resources, str(scratch), unused)

    def _server(self) -> AbstractContextManager[Any]:
        if not update_mode(self._spec).parameter_server:
            return nullcontext()
        from scaling_training.engine.parameter_server import parameter_server

        return parameter_server(self._spec)


def _import_all() -> None:
    for module in _MODULES:
        import_module(module)
