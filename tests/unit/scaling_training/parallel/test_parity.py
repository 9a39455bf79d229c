"""Whatever the mesh, gradients and losses are those of one process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from scaling_training.train import World
from tests.unit.scaling_training.parallel.stepping import Case, Result, train, train_all
from tests.unit.scaling_training.worlds import in_world

pytestmark = pytest.mark.timeout(900)

ALONE = World(0, 1, torch.device("cpu"))
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
SYNC = {"batchNorm": "sync"}

# Samples that do not divide by the ranks; clipping that takes effect; two micro-batches.
TWO = (
    Case("small-cnn", {"data": 2} | SYNC, samples=11, max_norm=0.5),
    Case("small-cnn", {"fsdp": 2} | SYNC, samples=11),
    Case("small-cnn", {"tensor": 2}, samples=11, max_norm=0.5),
    Case("mnist-cnn", {"tensor": 2}),
    Case("mnist-cnn", {"data": 2}, micro_batches=2),
    Case("mobilenet", {"data": 2} | SYNC),
    Case("mobilenet", {"fsdp": 2} | SYNC),
    Case("mobilenet", {"tensor": 2}, max_norm=0.5),
    Case("transformer", {"data": 2}, max_norm=0.5),
    Case("transformer", {"fsdp": 2}, micro_batches=2),
    Case("transformer", {"tensor": 2}, max_norm=0.5),
    Case("listed", {"fsdp": 2}, samples=11, micro_batches=2, steps=5),
    Case("swin", {"fsdp": 2}, samples=11, steps=5),
    Case("methods-called", {"fsdp": 2}, samples=11, steps=5),
    Case("rows-looped", {"fsdp": 2}, samples=11, steps=5),
    Case("attention", {"fsdp": 2}, samples=11, steps=5),
)
THREE = (
    # The last rank has no sample; batch norm covers the others.
    Case("small-cnn", {} | SYNC, samples=2, steps=5),
    Case("mobilenet", {"fsdp": 3} | SYNC, samples=10, steps=5),
    Case("transformer", {"fsdp": 3}, samples=2, micro_batches=2, steps=5),
)
FOUR = (
    Case("small-cnn", {"data": 4} | SYNC),
    Case("small-cnn", {"data": 2, "tensor": 2} | SYNC, samples=11, max_norm=0.5),
    Case("small-cnn", {"fsdp": 2, "tensor": 2} | SYNC),
    Case("mobilenet", {"data": 2, "fsdp": 2} | SYNC, max_norm=0.5, steps=8),
    Case("mobilenet", {"data": 2, "tensor": 2} | SYNC),
    Case("mobilenet", {"fsdp": 2, "tensor": 2} | SYNC, steps=8),
)
FOUR_ON_TOKENS = (
    Case("transformer", {"data": 2, "fsdp": 2}),
    Case("transformer", {"data": 2, "tensor": 2}, micro_batches=2),
    Case("transformer", {"fsdp": 2, "tensor": 2}, max_norm=0.5),
    Case("transformer", {"tensor": 4}),
)
SINGLE = (
    Case("small-cnn", {"data": 2, "tensor": 2} | SYNC, dtype=torch.float32, steps=5),
    Case("mobilenet", {"fsdp": 2, "tensor": 2} | SYNC, dtype=torch.float32, steps=5),
    Case("transformer", {"data": 2, "fsdp": 2}, dtype=torch.float32, steps=5),
)
# Batch norm of each rank's own samples.
LOCAL = (
    Case("small-cnn", {"data": 4}, split=4),
    Case("small-cnn", {"data": 2, "tensor": 2}, samples=11, split=2, max_norm=0.5),
    Case("mobilenet", {"fsdp": 4}, split=4, steps=8),
    Case("mobilenet", {"data": 2, "tensor": 2}, split=2),
)


def alone(case: Case) -> Result:
    """The same steps by one process, with the whole batch or share by share."""
    return train(ALONE, replace(case, parallelism={}, micro_batches=1))


def assert_equal(result: Result, expected: Result, dtype: torch.dtype) -> None:
    tolerance = TOLERANCES[dtype]
    assert result.losses == pytest.approx(expected.losses, rel=tolerance)
    assert_close(result.gradients, expected.gradients, tolerance)
    assert_close(result.state, expected.state, tolerance)


def assert_close(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], tolerance: float) -> None:
    """Relative to the tensor's size, because single numbers may be nothing but rounding.

    So may whole tensors: a bias before batch norm has the gradient 0.
    """
    assert set(found) == set(expected)
    largest = max(tensor.abs().max().item() for tensor in expected.values())
    for name, tensor in expected.items():
        scale = max(tensor.abs().max().item(), 1e-3 * largest)
        assert (found[name] - tensor).abs().max().item() <= tolerance * scale, name


@pytest.mark.parametrize(
    ("size", "cases"),
    [(2, TWO), (3, THREE), (4, FOUR), (4, FOUR_ON_TOKENS), (4, SINGLE)],
    ids=["two processes", "three processes", "four processes", "four on tokens", "single precision"],
)
def test_every_mesh_trains_as_one_process(size: int, cases: tuple[Case, ...]) -> None:
    results = in_world(size, train_all, cases)
    for number, case in enumerate(cases):
        expected = alone(case)
        for by_rank in results:
            assert_equal(by_rank[number], expected, case.dtype)


def test_local_batch_norm_trains_as_one_process_that_splits_the_batch_likewise() -> None:
    results = in_world(4, train_all, LOCAL)
    for number, case in enumerate(LOCAL):
        expected = alone(case)
        # Running statistics are each rank's own, and take no part in training.
        statistics = {name for name in expected.state if "running" in name or "tracked" in name}
        for by_rank in results:
            result = by_rank[number]
            assert result.losses == pytest.approx(expected.losses, rel=1e-9)
            assert_close(result.gradients, expected.gradients, 1e-9)
            weights = {name: value for name, value in result.state.items() if name not in statistics}
            assert_close(weights, {name: expected.state[name] for name in weights}, 1e-9)
