"""Choosing the mesh where training runs: the model is measured on the workers at hand, and the planner decides.

All ranks step a copy of the model at the same time, as they will later, so that what they share (cores, memory
bandwidth, links) counts. They agree on the slowest of their times, and so on the choice. It takes about as long as ten
steps.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

from scaling_training.models.dropout import keyed
from scaling_training.models.freeze import apply_freeze
from scaling_training.parallel.costs import Machine
from scaling_training.parallel.facts import facts_of
from scaling_training.parallel.planner import Choice, plan_mesh
from scaling_training.parallel.recompute import recomputing

if TYPE_CHECKING:
    from scaling_api.spec import ScalingJobSpec
    from scaling_api.training import TrainingSpec
    from scaling_training.data.batches import Batch
    from scaling_training.models.task import Task
    from scaling_training.world import World

# Numbers that an optimizer keeps per parameter, without momentum where it has none unless it is given.
_KEPT = {"gradient-descent": 0, "sgd": 0, "adagrad": 1, "rmsprop": 1, "adam": 2, "adamw": 2, "lars": 1, "lamb": 2}
_WITH_MOMENTUM = ("sgd", "rmsprop")

_REPEATS = 3
_SMALL, _LARGE = 2**10, 2**22  # bytes of the collectives that are timed

# What is not measured but known of a kind of device: the share of communication that hides behind the backward pass
# (on a CPU it shares the cores), and the seconds that FSDP itself takes per unit and step: mostly Python, measured on
# one core; on a GPU it runs ahead of the kernels.
_OVERLAP = {"cpu": 0.0, "cuda": 0.8}
_FSDP_UNIT_S = {"cpu": 1e-3, "cuda": 5e-5}


def choose_mesh(
    task: Task,
    world: World,
    *,
    spec: ScalingJobSpec,
    batch_of: Callable[[int], Batch],
    batch_size: int,
    around: Callable[[Batch], AbstractContextManager[Any]] = nullcontext,
) -> Choice:
    """The mesh for the task on this world; a collective operation, the same on all ranks.

    ``batch_of`` gives a batch of so many samples, ``batch_size`` is that of a step; ``around`` is that of
    ``parallelize``. UserError when nothing fits.
    """

    def step(samples: int, *, backward: bool = True) -> Callable[[], None]:
        batch = batch_of(samples)

        def run() -> None:
            with around(batch), keyed(task.model, batch.keys):
                loss_sum = task.loss_sum(task.model(*task.inputs(batch)), batch)
            if backward:
                loss_sum.backward()  # type: ignore[no-untyped-call]

        return run

    recomputed = spec.training.activation_checkpointing
    with _as_it_was(task.model):
        # The last epoch freezes least, so it takes most.
        apply_freeze(task, spec.model.freeze, spec.training.epochs - 1)
        # Two samples, because batch norm refuses to take the variance of one.
        model = facts_of(
            task.model, step(2, backward=False), samples=2, largest_tensor=world.size, recomputed=recomputed
        )
        pieces = spec.training.accumulation * -(-batch_size // spec.training.batch_size)
        samples = measured_samples(
            batch_size // world.size // pieces,
            sample_bytes=model.activations * model.element,
            memory=_memory(world),
        )
        with recomputing(task.model) if recomputed else nullcontext():
            machine = measure(step, world, samples=samples)
    # What was measured differs a little from rank to rank, and so might their choices.
    measured: list[Any] = [model, machine]
    if world.size > 1:
        dist.broadcast_object_list(measured, src=0, device=world.device)
    model, machine = measured
    return plan_mesh(
        model, machine, workers=world.size, batch_size=batch_size, optimizer_tensors=kept_tensors(spec.training)
    )


def measured_samples(share: int, *, sample_bytes: float, memory: float) -> int:
    """How many samples to measure with, up to twice at once: a micro-batch's, or what a half of the memory holds."""
    return max(2, min(share, int(memory / 4 / max(sample_bytes, 1.0))))


def kept_tensors(training: TrainingSpec) -> int:
    """Numbers kept per parameter beside itself and its gradient: by the optimizer, and by averaged weights."""
    optimizer = training.optimizer
    momentum = optimizer.name in _WITH_MOMENTUM and bool(optimizer.momentum)
    return _KEPT[optimizer.name] + momentum + (training.ema is not None)


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Trains on what is in it, and puts buffers, gradients, mode, and what is frozen back."""
    training = model.training
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        model.train()
        yield
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
        model.zero_grad()
        for parameter, wants in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(wants)
        model.train(training)


def measure(step: Callable[[int], Callable[[], None]], world: World, *, samples: int) -> Machine:
    """The machine as a worker meets it while all are busy, by the time of two sizes of batches and of collectives.

    ``step`` prepares a step of so many samples.
    """
    fewer = max(2, samples // 4)
    short, long = (_timed(step(count), world) for count in (fewer, 2 * samples))
    sample_s = max((long - short) / (2 * samples - fewer), 1e-9)
    latency_s, bytes_per_s = _measure_links(world)
    return Machine(
        fixed_s=max(0.0, short - fewer * sample_s),
        sample_s=sample_s,
        latency_s=latency_s,
        bytes_per_s=bytes_per_s,
        memory=_memory(world),
        fsdp_unit_s=_FSDP_UNIT_S[world.device.type],
        overlap=_OVERLAP[world.device.type],
    )


def _timed(run: Callable[[], object], world: World) -> float:
    """Seconds that it takes, all ranks at once: the best of a few by each, the slowest of the ranks."""
    times = []
    for _ in range(_REPEATS + 1):
        if world.size > 1:
            dist.barrier()
        began = time.perf_counter()
        run()
        if world.device.type == "cuda":
            torch.cuda.synchronize(world.device)
        times.append(time.perf_counter() - began)
    # The first one is a warm-up.
    return _slowest(min(times[1:]), world)


def _slowest(value: float, world: World) -> float:
    if world.size == 1:
        return value
    agreed = torch.tensor([value], dtype=torch.float64, device=world.device)
    dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
    return agreed.item()


def _measure_links(world: World) -> tuple[float, float]:
    """Latency of a collective in seconds, and bytes per second that a worker sends."""
    if world.size == 1:
        return 0.0, 1.0
    small, large = (torch.zeros(size // 4, device=world.device) for size in (_SMALL, _LARGE))
    latency_s = _timed(lambda: dist.all_reduce(small), world)
    sent = 2 * (world.size - 1) / world.size * _LARGE
    return latency_s, sent / max(_timed(lambda: dist.all_reduce(large), world) - latency_s, 1e-9)


def _memory(world: World) -> float:
    """Bytes that a process may fill, where that is least: its device's, or its share of what the machine has."""
    own = _gpu_memory(world.device) if world.device.type == "cuda" else _machine_memory() / _neighbours(world)
    return -_slowest(-own, world)


def _gpu_memory(device: torch.device) -> float:
    """What is free, and what this process has taken: the model is planned for, and what is cached comes free."""
    free, _ = torch.cuda.mem_get_info(device)
    return float(free + torch.cuda.memory_reserved(device))


def _machine_memory() -> float:
    """The machine's, or what its container was granted."""
    limit = Path("/sys/fs/cgroup/memory.max")
    granted = limit.read_text().strip() if limit.is_file() else "max"
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float(whole if granted == "max" else min(whole, int(granted)))


def _neighbours(world: World) -> int:
    """Training processes on this machine, this one included."""
    if world.size == 1:
        return 1
    here = torch.tensor([zlib.crc32(os.uname().nodename.encode())], dtype=torch.int64, device=world.device)
    everywhere = [torch.empty_like(here) for _ in range(world.size)]
    dist.all_gather(everywhere, here)
    return sum(bool(there == here) for there in everywhere)
