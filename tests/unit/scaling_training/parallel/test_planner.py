from __future__ import annotations

from dataclasses import replace

import pytest

from scaling_training.errors import UserError
from scaling_training.parallel import MeshShape
from scaling_training.parallel.costs import Machine, memory, seconds, volume
from scaling_training.parallel.facts import ModelFacts
from scaling_training.parallel.planner import Choice, plan_mesh, shapes

GIBI = 2.0**30
# A hundred million parameters in ten blocks; activations of 1 MiB per sample.
MODEL = ModelFacts(
    units=((), *[((10_000, 1_000),)] * 10),
    trained=100_000_000,
    divided=90_000_000,
    root_divided=0,
    element=4,
    activations=2**18,
    divided_activations=2**17,
    flops=2e8,
    divided_flops=1.8e8,
    summed_forward=20_000,
    summed_backward=20_000,
    gathered=0,
    tensor_calls=40,
    tensor_sizes=frozenset({2, 4}),
)
FAST_LINKS = Machine(
    fixed_s=1e-3, sample_s=1e-3, latency_s=1e-5, bytes_per_s=1e11, memory=64 * GIBI, fsdp_unit_s=1e-4, overlap=0.0
)
SLOW_LINKS = replace(FAST_LINKS, latency_s=1e-4, bytes_per_s=1e8)


def chosen(machine: Machine, model: ModelFacts = MODEL, *, workers: int = 4, batch: int = 64) -> Choice:
    return plan_mesh(model, machine, workers=workers, batch_size=batch, optimizer_tensors=2)


def test_all_meshes_are_weighed() -> None:
    found = set(shapes(4, batch_size=64, tensor_sizes=frozenset({2, 4})))
    assert found == {
        MeshShape(data=4),
        MeshShape(data=2, fsdp=2),
        MeshShape(fsdp=4),
        MeshShape(data=2, tensor=2),
        MeshShape(fsdp=2, tensor=2),
        MeshShape(tensor=4),
    }


def test_each_batch_rank_has_a_sample() -> None:
    assert set(shapes(4, batch_size=1, tensor_sizes=frozenset({2, 4}))) == {MeshShape(tensor=4)}


def test_with_fast_links_and_memory_the_batch_alone_is_divided() -> None:
    assert chosen(replace(FAST_LINKS, bytes_per_s=1e13)).chosen.shape == MeshShape(data=4)


def test_with_slow_links_the_axis_that_sends_least_is_taken() -> None:
    # 400 MB of gradients against 64 samples times 40,000 numbers.
    assert chosen(SLOW_LINKS).chosen.shape == MeshShape(tensor=4)


def test_a_model_that_does_not_fit_is_sharded() -> None:
    # Weights, gradients with their buckets, and two moments: 2 GB whole; 0.4 GB in quarters, which need no buckets.
    undivided = replace(MODEL, tensor_sizes=frozenset())
    assert chosen(replace(FAST_LINKS, memory=1.0 * GIBI), undivided).chosen.shape == MeshShape(fsdp=4)


def test_activations_that_do_not_fit_are_made_in_pieces() -> None:
    # 16 samples of 64 MiB each are 1 GiB of activations per worker; beside 2 GB there is room for half of that.
    large = replace(MODEL, activations=2**24, divided_activations=0, tensor_sizes=frozenset())
    machine = replace(FAST_LINKS, memory=2.9 * GIBI, fsdp_unit_s=1.0)
    choice = chosen(machine, large)
    assert (choice.chosen.shape, choice.chosen.micro_batches) == (MeshShape(data=4), 2)
    assert "in 2 micro-batches to fit into memory" in choice.explanation[0]
    assert choice.chosen.memory.total <= machine.memory


def test_nothing_that_fits_is_refused_with_what_would_help() -> None:
    with pytest.raises(UserError, match="use more workers or a smaller model"):
        chosen(replace(FAST_LINKS, memory=0.1 * GIBI))


def test_more_workers_than_samples_are_refused() -> None:
    with pytest.raises(UserError, match="batchSize 2; raise batchSize or use fewer workers"):
        chosen(FAST_LINKS, replace(MODEL, tensor_sizes=frozenset()), batch=2)


def test_among_equals_the_simpler_mesh_wins() -> None:
    # Nothing is sent: all meshes take as long.
    idle = replace(MODEL, divided_flops=0.0, tensor_calls=0, flops=1.0, summed_forward=0, summed_backward=0)
    machine = replace(FAST_LINKS, latency_s=0.0, bytes_per_s=1e30, fsdp_unit_s=0.0)
    assert chosen(machine, idle).chosen.shape == MeshShape(data=4)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6, 8])
def test_another_number_of_workers_is_planned_anew(workers: int) -> None:
    choice = chosen(SLOW_LINKS, workers=workers)
    assert choice.chosen.shape.size == workers
    assert choice.explanation[0].startswith(f"{workers} workers as {choice.chosen.shape}")
    assert [estimate.seconds for estimate in choice.estimates] == sorted(e.seconds for e in choice.estimates)


def test_the_explanation_names_the_next_best_and_what_is_out() -> None:
    said = chosen(SLOW_LINKS, replace(MODEL, tensor_sizes=frozenset())).explanation
    assert "% slower" in said[1] or "about as fast" in said[1]
    assert "A tensor axis is out" in said[2]


def test_what_is_frozen_is_held_and_gathered_but_has_no_gradient() -> None:
    frozen = replace(MODEL, trained=MODEL.parameters // 4)
    parameters = 4 * MODEL.parameters
    held = memory(frozen, MeshShape(data=4), batch_size=64, micro_batches=1, optimizer_tensors=2)
    assert (held.parameters, held.gradients, held.optimizer) == (parameters, parameters / 2, parameters / 2)
    assert volume(frozen, MeshShape(data=4), batch_size=64).total == pytest.approx(2 * 3 / 4 * parameters / 4)
    assert volume(frozen, MeshShape(fsdp=4), batch_size=64).total == pytest.approx((2 + 1 / 4) * 3 / 4 * parameters)


def test_formulas() -> None:
    parameters = 4 * MODEL.parameters
    assert volume(MODEL, MeshShape(data=4), batch_size=64).total == pytest.approx(2 * 3 / 4 * parameters)
    assert volume(MODEL, MeshShape(fsdp=4), batch_size=64).total == pytest.approx(3 * 3 / 4 * parameters)
    crossing = 64 * 2 * 40_000 * 4
    assert volume(MODEL, MeshShape(tensor=4), batch_size=64).total == pytest.approx(3 / 4 * crossing)
    held = memory(MODEL, MeshShape(data=4), batch_size=64, micro_batches=1, optimizer_tensors=2)
    assert held.total == pytest.approx(5 * parameters + 16 * 2**20)
    sharded = memory(MODEL, MeshShape(data=2, fsdp=2), batch_size=64, micro_batches=1, optimizer_tensors=2)
    assert sharded.total - sharded.gathered == pytest.approx(2 * parameters + 16 * 2**20)
    alone = seconds(MODEL, MeshShape(), FAST_LINKS, batch_size=64, micro_batches=2)
    assert alone == pytest.approx(2 * 1e-3 + 64 * 1e-3)
