"""A connection to Ray: one that is there already, or one that is started on this machine and ends with us."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scaling_api.driver import RAY_RESOURCE_SLOT
from scaling_training.engine.errors import EngineError
from scaling_training.engine.ray_internals.node import free_memory_bytes
from scaling_training.engine.reaper import reaped
from scaling_training.engine.scratch import PREFIX, scratch_folder

log = logging.getLogger(__name__)

# How long the head's Ray may take to come up beside the driver.
ATTACH_TIMEOUT_S = 180.0
# What goes through the object store is small but in update mode async: parameters, gradients and snapshots. It takes
# memory only as it fills, so it may be large; what finds no room in it goes to the disk.
OBJECT_STORE_SHARE = 0.3
OBJECT_STORE_LEAST_BYTES = 100 * 1024 * 1024

# Read by Ray in this process and inherited by the processes that it starts here.
_TUNING = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    # A thread that calls Ray after our connection ended (a stop in mid-start) must not connect to anybody else's.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # Training processes keep the driver's working directory.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Ray prints the raylets' notices into the driver's output; what matters of them we say ourselves.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}


def tune_environment() -> None:
    """Set what makes Ray start fast and keep quiet, before it is imported; what the user set stays."""
    for name, value in _TUNING.items():
        os.environ.setdefault(name, value)


def share_cores(workers: int) -> None:
    """Give each training process on this machine its share of the cores, unless the user decided."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // max(1, workers))))


def silence_logs() -> None:
    """Keep Ray's own log out of the driver's; call it again after Ray Train is imported, which sets levels."""
    for name in ("ray", "ray.train", "ray.data", "ray.tune", "ray.rllib", "ray.serve"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def attached(address: str) -> Iterator[Path]:
    """Gives a scratch folder, with a connection to the Ray cluster whose GCS listens at ``host:port``.

    It waits for the cluster. The port opens before the node is registered, so connecting is tried until it works;
    EngineError when it never does.
    """
    import ray

    silence_logs()
    deadline = time.monotonic() + ATTACH_TIMEOUT_S
    _wait_for_port(address, deadline)
    while True:
        try:
            with _own_signals():
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            break
        except Exception as error:  # Ray raises bare Exception, RuntimeError, ConnectionError and ValueError here
            if time.monotonic() > deadline:
                raise EngineError(
                    f"no connection to Ray at {address} within {ATTACH_TIMEOUT_S:.0f} s: {error}; "
                    "look at the log of the head pod's ray container"
                ) from error
            with suppress(Exception):
                ray.shutdown()
            time.sleep(0.2)
    try:
        with tempfile.TemporaryDirectory(prefix=PREFIX) as scratch:
            yield Path(scratch)
    finally:
        ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray installs signal handlers when it starts and when it connects; ours are put back after that."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def local(slots: int, gpus: int) -> Iterator[Path]:
    """Gives a scratch folder, with a Ray of our own that has room for ``slots`` training processes.

    Both are gone when the block ends. EngineError when Ray does not start.

    It is the single node of `ray.cluster_utils`, which can leave out what `ray.init` cannot: the log monitor and
    the autoscaler's monitor, a process of a second each. It ends with this process even when that is killed.
    """
    import ray
    from ray.cluster_utils import Cluster

    silence_logs()
    folder = scratch_folder()
    # Where Cluster writes its address, temp_dir or not. It would be /tmp/ray, which may be missing, may be another
    # user's, and is what every `ray.init("auto")` on the machine reads.
    os.environ["RAY_TMPDIR"] = str(folder)
    (folder / "ray").mkdir()
    with reaped(folder):
        cluster: Any = None
        try:
            with _starting(folder), _own_signals():
                cluster = Cluster(
                    initialize_head=True,
                    shutdown_at_exit=True,
                    head_node_args={
                        # Not what is used, which is slots, but how many processes the node starts ahead: the
                        # training processes and Ray Train's one helper move into those.
                        "num_cpus": slots + 1,
                        "num_gpus": gpus,
                        "resources": {RAY_RESOURCE_SLOT: slots},
                        "include_dashboard": False,
                        "include_log_monitor": False,
                        "no_monitor": True,
                        "object_store_memory": object_store_bytes(
                            memory_bytes=free_memory_bytes(), shared_bytes=shutil.disk_usage("/dev/shm").free
                        ),
                        "temp_dir": str(folder),
                    },
                )
                ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
            yield folder
        finally:
            with suppress(Exception):
                ray.shutdown()
            if cluster is not None:
                try:
                    cluster.shutdown()
                except Exception as error:
                    # The outcome is there, and the reaper ends what is left.
                    log.warning("Ray's node did not end in order: %s: %s", type(error).__name__, error)
            del os.environ["RAY_TMPDIR"]


@contextmanager
def _starting(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Ray raises bare Exception, RuntimeError, TimeoutError and what its parts raise
        raise EngineError(
            f"Ray could not be started on this machine: {type(error).__name__}: {' '.join(str(error).split())}; it "
            f"needs a HOME that it may write to ({os.environ.get('HOME', 'not set')} is this user's), and room in "
            f"{folder.parent} and /dev/shm"
        ) from error


def object_store_bytes(*, memory_bytes: int, shared_bytes: int) -> int:
    """How large the object store may be where so much memory is free, of which so much can be shared (/dev/shm)."""
    return max(OBJECT_STORE_LEAST_BYTES, int(OBJECT_STORE_SHARE * min(memory_bytes, shared_bytes)))


def _wait_for_port(address: str, deadline: float) -> None:
    host, _, port = address.rpartition(":")
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=1):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise EngineError(
                    f"Ray at {address} did not open its port within {ATTACH_TIMEOUT_S:.0f} s ({error}); "
                    "look at the log of the head pod's ray container"
                ) from error
            time.sleep(0.1)
