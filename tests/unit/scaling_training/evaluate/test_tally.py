from __future__ import annotations

import torch
from torch import nn

from scaling_training.data.batches import Batch
from scaling_training.evaluate.tally import count
from scaling_training.models.task import ClassificationTask
from scaling_training.train import World
from scaling_training.world.collectives import sum_in_place
from tests.unit.scaling_training.builders import a_batch
from tests.unit.scaling_training.worlds import in_world

CPU = torch.device("cpu")
NAMES = tuple("abcdefg")


def batches_of(samples: slice, size: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(41, 4, generator=generator)
    targets = torch.randint(0, len(NAMES), (41,), generator=generator)
    starts = range(samples.start, samples.stop, size)
    ends = [min(start + size, samples.stop) for start in starts]
    return [a_batch(inputs[start:end], targets[start:end]) for start, end in zip(starts, ends, strict=True)]


def a_task() -> ClassificationTask:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return ClassificationTask(nn.Linear(4, len(NAMES)).double(), len(NAMES))


def measured(world: World, cuts: list[int]) -> tuple[list[list[float]], dict[str, float]]:
    task = a_task()
    share = slice(cuts[world.rank], cuts[world.rank + 1])
    pieces = [a_batch(batch.inputs.double(), batch.targets) for batch in batches_of(share, 7)]
    tally = count(task, pieces, device=CPU)
    for sums in tally.tensors():
        sum_in_place(world, sums)
    return [sums.tolist() for sums in tally.tensors()], tally.result(NAMES).scalars()


def test_uneven_shards_add_up_to_the_whole() -> None:
    (counts, sums), scalars = measured(World(0, 1, CPU), [0, 41])
    # 8, 0 and 33 samples: a rank without any takes part as well.
    for (their_counts, their_sums), their_scalars in in_world(3, measured, [0, 8, 8, 41]):
        assert their_counts == counts
        torch.testing.assert_close(torch.tensor(their_sums), torch.tensor(sums), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(their_scalars, scalars, rtol=1e-12, atol=1e-12)


def test_counting_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 7)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count(ClassificationTask(model, 7), batches_of(slice(0, 41), 9), device=CPU)

    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
