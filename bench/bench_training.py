"""What the training loop costs: samples per second against a bare DistributedDataParallel loop.

Both train small-cnn on mnist-5k in memory, with the same model, optimizer, batch and number of processes,
without augmentation. The bare loop does what a hand-written script must (shuffle, slice, forward, backward,
step) and nothing else; ours is `train()` itself, with its progress, stop flag and checks. The two run by
turns within the same processes, an epoch each, and a pair's order alternates, so that what else the machine
does meets both. An epoch's first steps are left out: buckets and buffers are being made.

    python -m bench.bench_training [--pairs 12] [--processes 2]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.connection
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from scaling_api.spec import ScalingJobSpec
from scaling_training.data import open_dataset
from scaling_training.data.arrays import ImageArrays
from scaling_training.models import build_task
from scaling_training.storage import Storage
from scaling_training.train import World
from scaling_training.train.loop import train

BATCH = 128
LEFT_OUT = 4  # steps at the start
SPEC = ScalingJobSpec.model_validate(
    {
        "model": {"name": "small-cnn"},
        "dataset": {"name": "mnist-5k"},
        "training": {"epochs": 1, "batchSize": BATCH, "optimizer": {"name": "adam", "learningRate": 1e-3}},
    }
)


def main() -> int:
    """Measure, print, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        receiver, sender = context.Pipe(duplex=False)
        processes = [
            context.Process(target=_measure, args=(rank, options.processes, options.pairs, folder, sender))
            for rank in range(options.processes)
        ]
        for process in processes:
            process.start()
        # Without our own copy of the sending end, processes that died show as the end of the pipe.
        sender.close()
        pairs: list[tuple[float, float]] = receiver.recv()
        for process in processes:
            process.join()
    for ours, bare in pairs:
        print(f"ours {ours:7.1f} samples/s   bare {bare:7.1f} samples/s   ratio {ours / bare:.3f}")
    ratios = sorted(ours / bare for ours, bare in pairs)
    print(
        json.dumps(
            {
                "bench": "training",
                "processes": options.processes,
                "pairs": len(pairs),
                "samples_per_second": round(statistics.median(ours for ours, _ in pairs), 1),
                "bare_samples_per_second": round(statistics.median(bare for _, bare in pairs), 1),
                "ratio": round(statistics.median(ratios), 4),
                "ratio_quartiles": [round(value, 4) for value in statistics.quantiles(ratios, n=4)],
            }
        )
    )
    return 0


def _measure(rank: int, size: int, pairs: int, folder: str, sender: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    world = World(rank, size, torch.device("cpu"))
    results: list[tuple[float, float]] = []
    for pair in range(-1, pairs):  # the first pair warms up
        turns: list[Callable[[World, str], float]] = [_ours, _bare] if pair % 2 else [_bare, _ours]
        rates = {turn: turn(world, f"{folder}/{pair}") for turn in turns}
        results.append((rates[_ours], rates[_bare]))
    if rank == 0:
        sender.send(results[1:])
    if size > 1:
        dist.destroy_process_group()


def _rate(begun: list[float], samples: int) -> float:
    """Samples per second from when each step began; the last, smaller step is not counted."""
    steps = samples // BATCH
    return BATCH * (steps - LEFT_OUT) / (begun[steps] - begun[LEFT_OUT])


def _ours(world: World, folder: str) -> float:
    begun: list[float] = []

    def tap() -> bool:
        begun.append(time.perf_counter())
        return False

    train(
        SPEC,
        storage=Storage(folder),
        attempt=1,
        world=world,
        observer=lambda progress: None,
        stop_requested=tap,
        key="key",
        resume=None,
    )
    return _rate(begun, 3500) if world.is_first else 0.0


def _bare(world: World, folder: str) -> float:
    dataset = open_dataset(SPEC.dataset)
    scale, train_split = dataset.normalisation, dataset.train
    assert scale is not None
    assert isinstance(train_split, ImageArrays)
    images = (torch.from_numpy(train_split.images).float() / 255 - scale.mean[0]) / scale.std[0]
    labels = torch.from_numpy(train_split.labels)
    model = build_task(SPEC.model, input_shape=(1, 28, 28), classes=10, seed=0).model
    replica = DistributedDataParallel(model) if world.size > 1 else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    begun = []
    for batch in torch.split(order, BATCH):
        begun.append(time.perf_counter())
        mine = batch[world.rank :: world.size]
        optimizer.zero_grad()
        functional.cross_entropy(replica(images[mine]), labels[mine]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return _rate(begun, len(labels))


if __name__ == "__main__":
    sys.exit(main())
