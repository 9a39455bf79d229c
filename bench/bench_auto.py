"""How good a mesh `parallelism: {auto: true}` picks: its choice against every feasible mesh, measured.

Steps (forward, backward, optimizer) of one model on made-up images are timed on each mesh. The meshes take turns of a
few steps within the same processes, so that what else the machine does meets all of them; a mesh's figure is the
median of its turns.

    python -m bench.bench_auto [--model small-cnn] [--batch 128] [--side 28] [--workers 4] [--turns 15]

``--model dense`` is a chain of wide linear layers, which with few samples per step has more to send of gradients than
of activations.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import multiprocessing.connection
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import nn

from scaling_api.spec import ModelSpec, ScalingJobSpec
from scaling_training.data.batches import Batch
from scaling_training.models import build_task
from scaling_training.models.dropout import keyed
from scaling_training.models.task import ClassificationTask, Task
from scaling_training.parallel import Mesh, MeshShape
from scaling_training.parallel.auto import choose_mesh
from scaling_training.parallel.parallelize import parallelize
from scaling_training.parallel.planner import Choice
from scaling_training.train import World

CLASSES = 10
HIDDEN, LAYERS = 2048, 4  # of the dense chain
STEPS = 4  # of a turn
TARGET = 0.10  # how far the choice may be from the best


def main() -> int:
    """Measure, print, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="small-cnn")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--side", type=int, default=28)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        receiver, sender = context.Pipe(duplex=False)
        processes = [
            context.Process(target=_measure, args=(rank, folder, options, sender)) for rank in range(options.workers)
        ]
        for process in processes:
            process.start()
        sender.close()
        try:
            choice, measured = receiver.recv()
        finally:
            for process in processes:
                process.join(10)
                process.kill()
    return _report(choice, measured, options)


def _report(choice: Choice, measured: dict[MeshShape, float], options: argparse.Namespace) -> int:
    print(
        f"{options.model}, {options.batch} images of {options.side}x{options.side} per step, {options.workers} workers"
    )
    for sentence in choice.explanation:
        print(sentence)
    print(f"{'mesh':<24}{'estimated ms':>14}{'measured ms':>14}{'sent MiB':>10}")
    for estimate in choice.estimates:
        took = measured[estimate.shape]
        print(
            f"{estimate.shape!s:<24}{1000 * estimate.seconds:>14.1f}{1000 * took:>14.1f}"
            f"{estimate.volume.total / 2**20:>10.2f}"
        )
    best = min(measured.values())
    behind = measured[choice.chosen.shape] / best - 1
    print(f"the choice is {100 * behind:.1f} % behind the best")
    print(json.dumps({"chosen": str(choice.chosen.shape), "behindBest": round(behind, 4), "target": TARGET}))
    return 0 if behind <= TARGET else 1


def _measure(
    rank: int, folder: str, options: argparse.Namespace, sender: multiprocessing.connection.Connection
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=options.workers)
    world = World(rank, options.workers, torch.device("cpu"))
    spec = _spec(options)

    def batch_of(samples: int) -> Batch:
        images = torch.randn(samples, 1, options.side, options.side)
        return Batch(images, torch.randint(CLASSES, (samples,)), torch.arange(samples))

    task = _task(options)
    around = functools.partial(_dropout, task)
    choice = choose_mesh(task, world, spec=spec, batch_of=batch_of, batch_size=options.batch, around=around)
    turns = {estimate.shape: _turn(estimate.shape, world, options, batch_of) for estimate in choice.estimates}
    times: dict[MeshShape, list[float]] = {shape: [] for shape in turns}
    for number in range(options.turns + 1):
        for shape, turn in turns.items():
            dist.barrier()
            began = time.perf_counter()
            turn()
            dist.barrier()
            # The first turn makes buffers.
            if number:
                times[shape].append((time.perf_counter() - began) / STEPS)
    if rank == 0:
        sender.send((choice, {shape: statistics.median(each) for shape, each in times.items()}))
    dist.barrier()
    dist.destroy_process_group()


def _turn(
    shape: MeshShape, world: World, options: argparse.Namespace, batch_of: Callable[[int], Batch]
) -> Callable[[], None]:
    task = _task(options)
    mesh = Mesh.laid(shape, world)
    replica = parallelize(task, mesh, spec=_spec(options), around=functools.partial(_dropout, task))
    optimizer = torch.optim.SGD(replica.model.parameters(), 1e-3, 0.9, foreach=False)
    batch = batch_of(options.batch // mesh.batch_ranks)

    def turn() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            replica.forward_backward(batch, scale=mesh.batch_ranks / options.batch)
            optimizer.step()

    return turn


def _spec(options: argparse.Namespace) -> ScalingJobSpec:
    return ScalingJobSpec.model_validate(
        {
            "model": {"factory": f"bench.bench_auto:{dense.__name__}"}
            if options.model == "dense"
            else {"name": options.model},
            "dataset": {"name": "mnist-5k"},
            "training": {
                "epochs": 1,
                "batchSize": options.batch,
                "parallelism": {"auto": True},
                "optimizer": {"name": "sgd", "momentum": 0.9},
            },
        }
    )


def dense(pixels: int) -> ClassificationTask:
    """Linear layers one after the other."""
    sizes = [pixels, *[HIDDEN] * LAYERS]
    hidden = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return ClassificationTask(nn.Sequential(nn.Flatten(), *hidden, nn.Linear(HIDDEN, CLASSES)), CLASSES)


def _task(options: argparse.Namespace) -> Task:
    if options.model == "dense":
        return dense(options.side**2)
    task: Task = build_task(
        ModelSpec(name=options.model), input_shape=(1, options.side, options.side), classes=CLASSES, seed=0
    )
    task.model.train()
    return task


def _dropout(task: Task, batch: Batch) -> AbstractContextManager[None]:
    return keyed(task.model, batch.keys)


if __name__ == "__main__":
    sys.exit(main())
