"""The process group, as a backend of Ray Train.

Ray's own TorchConfig imports torch in the driver, which trains nothing: 2 s of CPU and 400 MB at every start.
This one touches torch in the training processes only.
"""

from __future__ import annotations

import socket
import time
from contextlib import closing
from datetime import timedelta
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

from scaling_training.engine import mailbox
from scaling_training.engine.answers import answers
from scaling_training.engine.device import device_for
from scaling_training.train import preload

# A collective that takes longer has lost a rank that nobody noticed; health checks and the watchdog are faster.
# Less would end a group whose first process saves a large model to a slow store while the others wait.
COLLECTIVE_TIMEOUT_S = 1800


class ProcessGroupConfig(BackendConfig):  # type: ignore[misc]
    """Gloo on CPUs, NCCL on GPUs; none for a single process."""

    @property
    def backend_cls(self) -> type[ProcessGroupBackend]:
        return ProcessGroupBackend


class ProcessGroupBackend(Backend):  # type: ignore[misc]
    """Joins the training processes before training starts."""

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Rank 0 offers an address, and all ranks meet there. NoAnswerError when one never does.

        ``worker_group`` is a `trainer.InProcessWorkerGroup`, which knows whether it was ``given_up``: the configuration
        goes to the processes and can hold no such thing.
        """
        size = len(worker_group)
        if size == 1:
            return
        gpus = worker_group.get_resources_per_worker().get("GPU", 0)
        ask, given_up = worker_group.execute_single_async, worker_group.given_up
        # Before they meet, so that one that hangs as it imports can be told from those that would wait for it.
        answers([ask(rank, prepare, gpus) for rank in range(size)], given_up=given_up)
        (address,) = answers([ask(0, offer_address)], given_up=given_up)
        answers([ask(rank, join, gpus, address, rank, size) for rank in range(size)], given_up=given_up)


def offer_address() -> str:
    """host:port on this node for the ranks to meet at."""
    host = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"


def prepare(gpus: float) -> None:
    """Get ready to join; UserError when this process was given GPUs that do not work."""
    mailbox.mark("joinCalled", time.time())
    # The process began these imports when it started; two threads must not import parts of torch at once.
    preload.wait(preload.OPTIMIZER_MODULES)
    import torch.distributed  # noqa: F401

    mailbox.mark("torchImported", time.time())
    device_for(gpus)


def join(gpus: float, address: str, rank: int, size: int) -> None:
    """Become ``rank`` of the default process group; `prepare` was called before."""
    import torch.distributed as dist

    dist.init_process_group(
        "nccl" if gpus else "gloo",
        init_method=f"tcp://{address}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
    )
    mailbox.mark("joined", time.time())
