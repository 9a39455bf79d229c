"""What the modes of update gain and cost when one of four workers is slow.

The same training (small-cnn on digits) runs in modes sync, local and async, on a Ray on this machine, with the
engine's own parameter server. Workers are slowed by sleeping before each forward pass, in proportion to the samples,
one of them three times as long as the others: so two cores are enough, and what is compared is waiting. All modes take
the same number of samples. Rates are over the whole loop, validation and saving included.

    python -m bench.bench_update [--seeds 5] [--epochs 12]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from typing import Any

from scaling_api.driver import RAY_RESOURCE_SLOT
from scaling_api.spec import ScalingJobSpec
from scaling_training.engine import session

WORKERS = 4
SLOWED = 3  # times as slow as the others
SLEEP_S = 0.002  # per sample, of the others
BATCH = 64
TRAINING_SAMPLES = 1259
UPDATES: dict[str, dict[str, Any]] = {
    "sync": {"mode": "sync"},
    "local": {"mode": "local", "steps": 5},
    "async": {"mode": "async"},
}


def spec_of(mode: str, *, epochs: int, seed: int) -> ScalingJobSpec:
    """The training in this mode; nothing else differs."""
    return ScalingJobSpec.model_validate(
        {
            "model": {"name": "small-cnn", "width": 0.25},
            "dataset": {"name": "digits"},
            "training": {
                "epochs": epochs,
                "batchSize": BATCH,
                "seed": seed,
                "optimizer": {"name": "adam", "learningRate": 3e-3},
                "schedule": {"name": "cosine", "warmupFraction": 0.1},
                "parallelism": {"data": WORKERS},
                "update": UPDATES[mode],
                "checkpoint": {"everyEpochs": epochs},
            },
        }
    )


class Rank:
    """A training process."""

    def __init__(self, rank: int, folder: str) -> None:
        import torch
        import torch.distributed as dist

        from scaling_training.parallel.replica import Replica

        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORKERS)
        self._rank = rank
        sleep_s = SLEEP_S * (SLOWED if rank == WORKERS - 1 else 1)
        forward_backward = Replica.forward_backward

        def slowly(replica: Any, batch: Any, **how: Any) -> Any:
            time.sleep(sleep_s * len(batch))
            return forward_backward(replica, batch, **how)

        Replica.forward_backward = slowly  # type: ignore[method-assign, assignment]

    def train(self, plain: dict[str, Any], root: str, server: Any) -> dict[str, Any]:
        """One training; how it ended."""
        import torch

        from scaling_training.storage import Storage
        from scaling_training.train import World
        from scaling_training.train.history import parse_rows
        from scaling_training.train.loops import loop_of

        spec, storage = ScalingJobSpec.model_validate(plain), Storage(root)
        began = time.perf_counter()
        outcome = loop_of(spec)(
            spec,
            server=server,
            storage=storage,
            attempt=1,
            world=World(self._rank, WORKERS, torch.device("cpu")),
            observer=lambda progress: None,
            stop_requested=lambda: False,
            key="key",
            resume=None,
        )
        return {
            "seconds": outcome.seconds,
            "wallSeconds": time.perf_counter() - began,
            "accuracy": parse_rows(storage.read(outcome.history))[-1]["valAccuracy"],
            "staleness": list(outcome.staleness),
        }


def main() -> int:
    """Measure, print, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    session.tune_environment()
    with session.local(WORKERS, 0), tempfile.TemporaryDirectory() as folder:
        found = _measure(folder, seeds=options.seeds, epochs=options.epochs)
    samples = TRAINING_SAMPLES * options.epochs
    modes = {mode: _summary(runs, samples) for mode, runs in found.items()}
    sync = modes["sync"]
    for mode in ("local", "async"):
        modes[mode]["speedup"] = round(modes[mode]["samplesPerSecond"] / sync["samplesPerSecond"], 3)
        modes[mode]["accuracyPoints"] = round(100 * (modes[mode]["accuracy"] - sync["accuracy"]), 2)
    result = {"bench": "update", "workers": WORKERS, "slowed": SLOWED, "seeds": options.seeds, "samples": samples}
    print(json.dumps({**result, "modes": modes, "loadAverage": round(os.getloadavg()[0], 1)}))
    return 0


def _measure(folder: str, *, seeds: int, epochs: int) -> dict[str, list[dict[str, Any]]]:
    import ray

    from scaling_training.engine.parameter_server import parameter_server

    make = ray.remote(Rank).options(num_cpus=0, resources={RAY_RESOURCE_SLOT: 1})
    ranks = [make.remote(rank, folder) for rank in range(WORKERS)]
    found: dict[str, list[dict[str, Any]]] = {mode: [] for mode in UPDATES}
    # The first seed warms up processes and is not counted.
    for seed in range(-1, seeds):
        for mode in UPDATES:
            spec = spec_of(mode, epochs=epochs if seed >= 0 else 1, seed=max(seed, 0))
            with parameter_server(spec) if mode == "async" else nullcontext() as server:
                root = f"{folder}/{mode}-{seed}"
                run = ray.get([rank.train.remote(spec.to_json_dict(), root, server) for rank in ranks])[0]
            if seed >= 0:
                found[mode].append(run)
                rate = TRAINING_SAMPLES * epochs / run["seconds"]
                print(f"seed {seed} {mode:6s} {rate:7.1f} samples/s  accuracy {run['accuracy']:.4f}", flush=True)
    return found


def _summary(runs: list[dict[str, Any]], samples: int) -> dict[str, Any]:
    accuracies = [run["accuracy"] for run in runs]
    summary: dict[str, Any] = {
        "samplesPerSecond": round(statistics.median(samples / run["seconds"] for run in runs), 1),
        "accuracy": round(statistics.fmean(accuracies), 4),
        "accuracies": [round(value, 4) for value in accuracies],
    }
    longest = max(len(run["staleness"]) for run in runs)
    if longest:
        histogram = [sum(run["staleness"][at] for run in runs if at < len(run["staleness"])) for at in range(longest)]
        summary["stalenessMean"] = round(sum(at * count for at, count in enumerate(histogram)) / sum(histogram), 3)
        summary["stalenessHistogram"] = histogram
    return summary


if __name__ == "__main__":
    sys.exit(main())
