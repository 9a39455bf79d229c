from __future__ import annotations

from functools import partial

import torch

from scaling_training.data.batches import Batch
from scaling_training.parallel.auto import choose_mesh
from scaling_training.parallel.planner import Choice
from scaling_training.train import World
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.parallel.small_models import a_batch, a_task, dropout
from tests.unit.scaling_training.worlds import in_world


def _chosen(world: World, model: str) -> tuple[Choice, bool]:
    """The choice, and whether the model is as it was before."""
    task = a_task(model, torch.float32)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    spec = a_spec(batchSize=8, parallelism={"auto": True})

    def batch_of(samples: int) -> Batch:
        return a_batch(model, samples, 0, torch.float32)

    choice = choose_mesh(task, world, spec=spec, batch_of=batch_of, batch_size=8, around=partial(dropout, task.model))
    kept = all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    return choice, kept and all(parameter.grad is None for parameter in task.model.parameters())


def test_all_ranks_choose_the_same_and_leave_the_model_as_it_was() -> None:
    (one, kept), (other, also_kept) = in_world(2, _chosen, "mobilenet")
    assert one == other
    assert kept
    assert also_kept
    assert one.chosen.shape.size == 2
    assert {str(estimate.shape) for estimate in one.estimates} == {"data 2", "fsdp 2", "tensor 2"}


def test_one_process_has_no_choice() -> None:
    choice, kept = _chosen(World(0, 1, torch.device("cpu")), "transformer")
    assert kept
    assert str(choice.chosen.shape) == "one process"
    assert choice.explanation[0].startswith("1 workers as one process")
