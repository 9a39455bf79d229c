"""Validation on all processes: each tallies its share of the split, and the sums are those of the whole."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch

from scaling_training.data.order import rank_slice
from scaling_training.evaluate.metrics import Metrics
from scaling_training.evaluate.tally import BATCH, evaluation_mode
from scaling_training.parallel.consistency import broadcast_buffers
from scaling_training.train import preload
from scaling_training.train.setup import Setup
from scaling_training.world.collectives import sum_in_place


@torch.no_grad()
def validate(setup: Setup) -> Metrics | None:
    """Metrics of the model (its averaged weights, where it has some) on the validation split; on rank 0 alone.

    Every rank must call it, and runs the model equally often: where parameters are sharded each run is a
    collective, so a rank whose share is shorter repeats a sample that it does not count.
    """
    mesh, feed, device = setup.mesh, setup.validation, setup.world.device
    if setup.world.is_first and feed.ahead:
        # An import that has gone on in the background since the first step: readers that are forked meanwhile would
        # have its locks for ever.
        preload.wait(preload.METRICS_MODULES)
    samples = len(feed)
    share = rank_slice(samples, mesh.batch_rank, mesh.batch_ranks)
    longest = -(-samples // mesh.batch_ranks)
    tally = setup.task.tally(device)
    # Batch norm that is local to a rank has gathered statistics of its own.
    broadcast_buffers(mesh, setup.task.model)
    averaged = nullcontext() if setup.ema is None else setup.ema.swapped()
    with averaged, evaluation_mode(setup.task.model):
        if setup.ema is not None:
            # So has their average; the first one's is what is saved.
            broadcast_buffers(mesh, setup.task.model)
        counted = 0
        for batch in feed.stretch(share, BATCH):
            output = setup.replica.forward(batch)
            counted += 1
            if mesh.is_batch_leader:
                tally.update(output, batch)
        for _ in range(counted, -(-longest // BATCH)):
            setup.replica.forward(feed.get(0, np.zeros(1, dtype=np.int64)))
        setup.replica.rest()
    for sums in tally.tensors():
        sum_in_place(setup.world, sums)
    if not setup.world.is_first:
        return None
    preload.wait(preload.METRICS_MODULES)
    return tally.result(setup.dataset.class_names)
