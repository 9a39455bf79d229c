"""Measuring a checkpoint's model on splits, batch by batch, by one process or by several that share the samples.

The model is whole on every process. Each counts its share of the samples and the sums are added up, so the numbers are
those of one process, whatever the shares. Nobody waits for another before the end: how many batches a share has does
not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from scaling_api.spec import ScalingJobSpec
from scaling_training.checkpoint import CheckpointRef
from scaling_training.data import Dataset
from scaling_training.data.batches import Batch
from scaling_training.data.order import rank_slice
from scaling_training.data.samples import Samples
from scaling_training.evaluate.metrics import Metrics
from scaling_training.storage import Storage
from scaling_training.world import World
from scaling_training.world.heartbeat import Beat, Phase, silent


def measure(
    spec: ScalingJobSpec,
    splits: Mapping[str, Samples],
    *,
    dataset: Dataset,
    storage: Storage,
    checkpoint: CheckpointRef,
    world: World,
    share_done: Callable[[float], None] = lambda share: None,
    stop_requested: Callable[[], bool] = lambda: False,
    beat: Beat = silent,
) -> dict[str, Metrics] | None:
    """Metrics of the checkpoint's model on each of the splits of ``dataset``, on every rank alike.

    Every rank must call it. ``share_done`` hears after each batch how much of this rank's work is done, from 0 to 1.
    None after a stop, which counts for all ranks as soon as it reaches one. UserError for a checkpoint that is damaged
    or of another model.
    """
    import torch

    from scaling_training.checkpoint.weights import load_weights, weights_file
    from scaling_training.evaluate.tally import BATCH, count
    from scaling_training.models.job import job_task
    from scaling_training.models.precision import precision
    from scaling_training.world.collectives import broadcast_bytes, sum_in_place

    task = job_task(spec, dataset, device=world.device, initial_weights=False)
    # Read by one process, as when training is resumed.
    weights = broadcast_bytes(world, weights_file(storage, checkpoint) if world.is_first else None)
    load_weights(weights, task.model)
    del weights

    # All ranks count the batches of the longest share, so that a watchdog can compare them.
    lengths = {name: -(-len(rank_range(samples, world, rank=0)) // BATCH) for name, samples in splits.items()}
    total, step, stopped = sum(lengths.values()), 0, False

    def watched(batches: Iterator[Batch]) -> Iterator[Batch]:
        nonlocal step, stopped
        for batch in batches:
            if stop_requested():
                stopped = True
                return
            beat(Phase.STEP, step)
            yield batch
            step += 1
            share_done(step / total)
            beat(Phase.DATA, step)

    tallies, unreadable, before = {}, dict.fromkeys(splits, 0), 0
    for name, samples in splits.items():
        if stopped:
            break
        share = rank_range(samples, world, rank=world.rank)
        feed = dataset.feed(samples, device=world.device, seed=spec.training.seed)
        beat(Phase.DATA, step)
        batches = watched(feed.stretch(slice(share.start, share.stop), BATCH))
        # In the precision that the model was trained and validated in, so that its numbers can be compared.
        tallies[name] = count(task, batches, device=world.device, around=precision(spec.training, world.device))
        unreadable[name] = feed.skipped
        step = before = before + lengths[name]
    beat(Phase.STEP, step)
    met = torch.tensor([float(stopped), *unreadable.values()], dtype=torch.float64, device=world.device)
    sum_in_place(world, met)
    stops, *skipped = met.tolist()
    if stops:
        return None
    for tally in tallies.values():
        for sums in tally.tensors():
            sum_in_place(world, sums)
    beat(Phase.END, step)
    return {
        name: replace(tally.result(dataset.class_names), skipped=int(left_out))
        for (name, tally), left_out in zip(tallies.items(), skipped, strict=True)
    }


def rank_range(samples: Samples, world: World, *, rank: int) -> range:
    """The samples that a rank counts."""
    share = rank_slice(len(samples), rank, world.size)
    return range(share.start, share.stop)
