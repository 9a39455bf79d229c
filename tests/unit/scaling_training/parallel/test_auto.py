from __future__ import annotations

from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch

from scaling_api.model import FreezeSpec
from scaling_training.data.batches import Batch
from scaling_training.optim import build_optimizer
from scaling_training.parallel import auto
from scaling_training.parallel.auto import choose_mesh, kept_tensors, measured_samples
from scaling_training.parallel.costs import Memory
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


@pytest.mark.parametrize(
    ("share", "memory", "samples"),
    [
        pytest.param(64, 1e9, 64, id="all of a worker's share"),
        pytest.param(64, 4e4, 10, id="what is sure to fit"),
        pytest.param(0, 1e9, 2, id="two at least, for batch norm"),
    ],
)
def test_what_is_measured_fits_into_memory(share: int, memory: float, samples: int) -> None:
    assert measured_samples(share, sample_bytes=1e3, memory=memory) == samples


def test_it_measures_no_more_samples_than_a_micro_batch_has() -> None:
    asked = []

    def batch_of(samples: int) -> Batch:
        asked.append(samples)
        return a_batch("mnist-cnn", samples, 0, torch.float32)

    task = a_task("mnist-cnn", torch.float32)
    spec = a_spec(batchSize=64, accumulation=16, parallelism={"auto": True})
    world = World(0, 1, torch.device("cpu"))
    choose_mesh(task, world, spec=spec, batch_of=batch_of, batch_size=64, around=partial(dropout, task.model))
    assert max(asked) <= 2 * 64 // 16


@pytest.mark.parametrize(
    ("optimizer", "kept"),
    [
        ({"name": "sgd"}, 0),
        ({"name": "sgd", "momentum": 0.9}, 1),
        ({"name": "rmsprop", "momentum": 0.9}, 2),
        ({"name": "lars"}, 1),
        ({"name": "lars", "momentum": 0.8}, 1),
        ({"name": "adamw"}, 2),
    ],
)
def test_numbers_kept_are_those_of_the_optimizer(optimizer: dict[str, Any], kept: int) -> None:
    training = a_spec(optimizer={"learningRate": 0.1, **optimizer}).training
    assert kept_tensors(training) == kept
    weights = torch.nn.Parameter(torch.ones(3, 3))
    built = build_optimizer(training.optimizer, [weights])
    weights.grad = torch.ones(3, 3)
    built.step()
    assert sum(value.shape == weights.shape for value in built.state[weights].values() if value is not None) == kept


def test_what_is_frozen_or_computed_again_takes_less() -> None:
    world = World(0, 1, torch.device("cpu"))

    def needed(*freeze: FreezeSpec, **training: Any) -> Memory:
        task = a_task("deep-transformer", torch.float32)
        spec = a_spec(batchSize=8, parallelism={"auto": True}, **training)
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"freeze": list(freeze)})})

        def batch_of(samples: int) -> Batch:
            return a_batch("deep-transformer", samples, 0, torch.float32)

        around = partial(dropout, task.model)
        choice = choose_mesh(task, world, spec=spec, batch_of=batch_of, batch_size=8, around=around)
        assert all(parameter.requires_grad for parameter in task.model.parameters())
        assert all("forward" not in vars(module) for module in task.model.modules())
        return choice.chosen.memory

    whole = needed()
    frozen = needed(FreezeSpec(layers="blocks"))
    assert frozen.parameters == whole.parameters
    assert frozen.gradients < 0.5 * whole.gradients
    assert frozen.optimizer < 0.5 * whole.optimizer
    assert frozen.activations < whole.activations
    thawed = needed(FreezeSpec(layers="blocks", until_epoch=1), epochs=2)
    assert thawed == whole
    assert needed(activationCheckpointing=True).activations < 0.7 * whole.activations


def test_what_the_measuring_left_in_the_cache_of_a_gpu_is_no_memory_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 80 units the model takes 10; the steps that were timed leave 60 with torch's allocator."""
    found = []
    for free, reserved in ((70, 10), (20, 60)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device, reserved=reserved: reserved)
        found.append(auto._memory(World(0, 1, torch.device("cuda", 0))))
    assert found == [80, 80]


def _memory_of_uneven_machines(world: World) -> float:
    with patch.object(auto, "_machine_memory", lambda: 100.0 - 40 * world.rank):
        return auto._memory(world)


def test_the_memory_is_that_of_the_process_with_least() -> None:
    assert in_world(2, _memory_of_uneven_machines) == [30.0, 30.0]


def test_one_process_has_no_choice() -> None:
    choice, kept = _chosen(World(0, 1, torch.device("cpu")), "transformer")
    assert kept
    assert str(choice.chosen.shape) == "one process"
    assert choice.explanation[0].startswith("1 workers as one process")
