"""How long training waits for a save, in the background against on the spot; and what going on from it reads.

A model with about 100 MB of state (weights and AdamW's moments) takes steps on one process and is saved after every
few of them, to the local disk. Both ways are measured by turns within one process: `Keeper.save` as training calls
it, and the same followed by a wait for its end. Besides, the steps while a save is in flight are timed against
those while none is: what the writing thread costs training. At the end the next attempt goes on from what is saved,
and what it reads of the storage is counted against what is there.

    python -m bench.bench_checkpoint [--saves 8] [--megabytes 100]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from unittest.mock import patch

import torch
from torch import nn

from scaling_training.checkpoint import Checkpoints
from scaling_training.checkpoint.catalog import newest_committed
from scaling_training.checkpoint.state import Position, Trained
from scaling_training.evaluate.classification import ACCURACY
from scaling_training.storage import Storage
from scaling_training.train import World
from scaling_training.train.saving import Keeper
from scaling_training.train.start import Start

WIDTH = 1024
BATCH = 64
QUIET_STEPS = 8


def main() -> int:
    """Measure, print, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--saves", type=int, default=8, help="of each kind")
    parser.add_argument("--megabytes", type=int, default=100, help="of weights and optimizer state together")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # Weights and two moments, 4 bytes each.
    layers = max(1, round(options.megabytes * 1e6 / (3 * 4 * WIDTH * WIDTH)))
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))
    trained = Trained(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    step(trained)
    size = sum(tensor.numel() * tensor.element_size() for tensor in trained.tensors().values())
    blocked: dict[str, list[float]] = {"background": [], "on the spot": []}
    steps: dict[str, list[float]] = {"quiet": [], "while saving": []}
    with tempfile.TemporaryDirectory() as folder:
        world = World(0, 1, torch.device("cpu"))
        checkpoints = Checkpoints(Storage(folder), attempt=1, key="bench", keep=1)
        keeper = Keeper(trained, world=world, checkpoints=checkpoints, objective=ACCURACY)
        for number in range(-1, options.saves):  # the first pair allocates the memory for the copy
            for way in ("background", "on the spot"):
                began = time.monotonic()
                keeper.save(Position(step=1000 + 2 * number + (way == "on the spot")), epoch=0, metrics=None)
                if way == "on the spot":
                    keeper.wait()
                took = time.monotonic() - began
                saving = []
                while way == "background" and not keeper.poll():
                    saving.append(step(trained))
                # The last one outlived the save.
                quiet = [step(trained) for _ in range(QUIET_STEPS)]
                if number >= 0:
                    blocked[way].append(took)
                    steps["while saving"] += saving[:-1]
                    steps["quiet"] += quiet
                    print(f"{way:12} {1000 * took:8.1f} ms blocked")
        restore_s, read_share = restored(trained, world, folder)
    medians = {way: statistics.median(values) for way, values in blocked.items()}
    quiet_s, saving_s = (statistics.median(steps[kind] or [float("nan")]) for kind in ("quiet", "while saving"))
    print(
        json.dumps(
            {
                "bench": "checkpoint",
                "megabytes": round(size / 1e6, 1),
                "saves": options.saves,
                "blockedMs": round(1000 * medians["background"], 1),
                "blockedOnTheSpotMs": round(1000 * medians["on the spot"], 1),
                "ratio": round(medians["background"] / medians["on the spot"], 4),
                "stepMs": round(1000 * quiet_s, 1),
                "stepWhileSavingMs": round(1000 * saving_s, 1),
                "restoreMs": round(1000 * restore_s, 1),
                "readShare": round(read_share, 3),
            }
        )
    )
    return 0


def step(trained: Trained) -> float:
    """One optimizer step; the seconds that it took."""
    began = time.monotonic()
    trained.optimizer.zero_grad()
    loss = trained.model(torch.randn(BATCH, WIDTH)).square().mean()
    loss.backward()
    trained.optimizer.step()
    return time.monotonic() - began


def restored(trained: Trained, world: World, folder: str) -> tuple[float, float]:
    """The next attempt's start, the driver's part of it included: seconds, and bytes read over bytes saved."""
    read, sizes = Storage.read, []

    def counted(storage: Storage, name: str) -> bytes:
        content = read(storage, name)
        sizes.append(len(content))
        return content

    began = time.monotonic()
    with patch.object(Storage, "read", counted):
        storage = Storage(folder)
        newest = newest_committed(storage, "bench")
        checkpoints = Checkpoints(storage, attempt=2, key="bench")
        start = Start(checkpoints, world=world, resume=None)
        Keeper(trained, world=world, checkpoints=checkpoints, objective=ACCURACY).restore(start)
    took = time.monotonic() - began
    assert newest is not None
    return took, sum(sizes) / sum(storage.size(f"{newest.folder}/{name}") for name in storage.names(newest.folder))


if __name__ == "__main__":
    sys.exit(main())
