"""Running a function in several training processes that form a gloo process group.

The processes are forked from a server that has imported torch and what the loop imports late, so a world
costs a fraction of a second instead of several seconds of imports in each process.
"""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "torch",
        "torch._dynamo",
        "torchmetrics.functional.classification",
        "scaling_training.parallel.pipeline",
        "scaling_training.train.loop",
    ]
)
_LIMIT_S = 280.0


def in_world(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """``function(world, *arguments)`` on each rank; what each returned, by rank. The first error is raised here."""
    with started(size, function, *arguments) as running:
        return running.results()


@dataclass(frozen=True, slots=True)
class Running:
    """The processes of a world, by rank."""

    processes: Sequence[ForkServerProcess]
    pipes: Sequence[Connection]

    def results(self) -> list[Any]:
        """Wait for what each returns. The first error is raised here."""
        return _results(self.pipes)


@contextmanager
def started(size: int, function: Callable[..., Any], *arguments: Any) -> Iterator[Running]:
    """The same without waiting; the processes are killed when the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        pipes = [_CONTEXT.Pipe(duplex=False) for _ in range(size)]
        processes = [
            # Not daemons, which may have no reading processes of their own; they are killed below.
            _CONTEXT.Process(target=_run, args=(rank, size, folder, pipe[1], function, arguments))
            for rank, pipe in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        for _, sender in pipes:
            # Without our own copy of it, a process that dies shows as the end of its pipe.
            sender.close()
        try:
            yield Running(processes, [pipe[0] for pipe in pipes])
        finally:
            for process in processes:
                process.kill()
                process.join()


def _results(pipes: Sequence[Connection]) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        ready = wait([pipe for rank, pipe in enumerate(pipes) if rank not in results], timeout=_LIMIT_S)
        assert ready, f"ranks {sorted(set(range(len(pipes))) - set(results))} did not answer in {_LIMIT_S:.0f} s"
        for pipe in ready:
            assert isinstance(pipe, Connection)
            error, value = pipe.recv()
            if error is not None:
                raise AssertionError(f"rank {pipes.index(pipe)}:\n{value}") from error
            results[pipes.index(pipe)] = value
    return [results[rank] for rank in range(len(pipes))]


def _run(
    rank: int, size: int, folder: str, pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    import torch
    import torch.distributed as dist

    from scaling_training.train import World

    torch.set_num_threads(1)
    try:
        if size > 1:
            dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
        pipe.send((None, function(World(rank, size, torch.device("cpu")), *arguments)))
    except BaseException as error:
        pipe.send((error, traceback.format_exc()))
    # The others may still be in a collective with this rank: it stays until it is killed.
    pipe.close()
    signal.pause()
