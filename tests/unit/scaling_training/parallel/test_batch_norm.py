"""Synchronised batch norm against torch's own over the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn

from scaling_training.parallel.batch_norm import ParallelBatchNorm, standing_in
from scaling_training.train import World
from tests.unit.scaling_training.worlds import in_world

CHANNELS = 5
# Shares of the batch by rank; 0: the rank runs a sample that does not count.
SHARES = ((4, 4, 4), (5, 2, 1), (3, 1, 0))


def a_norm(
    shape: Sequence[int], *, momentum: float | None = 0.1, affine: bool = True
) -> nn.modules.batchnorm._BatchNorm:
    kind = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    norm = kind(CHANNELS, momentum=momentum, affine=affine, dtype=torch.float64)
    if affine:
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2, CHANNELS))
            norm.bias.copy_(torch.linspace(-1, 1, CHANNELS))
    return norm


def a_batch(samples: int, rest: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Values with a mean far from 0, and what the output is multiplied by for a loss."""
    generator = torch.Generator().manual_seed(samples)
    shape = (samples, CHANNELS, *rest)
    values = torch.randn(shape, generator=generator, dtype=torch.float64) + 1000.0
    return values.requires_grad_(), torch.randn(shape, generator=generator, dtype=torch.float64)


def _on_each_rank(
    world: World, rest: Sequence[int], momentum: float | None, affine: bool
) -> list[dict[str, torch.Tensor]]:
    results = []
    for shares in SHARES:
        group = dist.group.WORLD
        assert group is not None
        norm = ParallelBatchNorm.of(a_norm((0, 0, *rest), momentum=momentum, affine=affine), group=group)
        values, factors = a_batch(sum(shares), rest)
        begin, mine = sum(shares[: world.rank]), shares[world.rank]
        counts = mine > 0
        share = values.detach()[begin : begin + mine] if counts else values.detach()[:1]
        share = share.clone().requires_grad_()
        with nullcontext() if counts else standing_in(norm):
            output = norm(share)
            (output * (factors[begin : begin + mine] if counts else 0 * factors[:1])).sum().backward()
        assert share.grad is not None
        assert counts or not share.grad.any()
        result = {"output": output.detach()[:mine], "gradient": share.grad[:mine]}
        for name, parameter in norm.named_parameters():
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad)
            result[name] = parameter.grad
        results.append(result | dict(norm.named_buffers()))
    return results


@pytest.mark.parametrize(
    ("rest", "momentum", "affine"),
    [((), 0.1, True), ((3, 2), None, False), ((2, 3), 0.3, True)],
    ids=["features", "images without momentum and weights", "images"],
)
def test_shares_are_normalised_as_the_whole_batch(rest: Sequence[int], momentum: float | None, affine: bool) -> None:
    by_rank = in_world(3, _on_each_rank, rest, momentum, affine)
    for number, shares in enumerate(SHARES):
        norm = a_norm((0, 0, *rest), momentum=momentum, affine=affine)
        values, factors = a_batch(sum(shares), rest)
        output = norm(values)
        (output * factors).sum().backward()
        results = [rank[number] for rank in by_rank]
        close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
        close(torch.cat([result["output"] for result in results]), output)
        close(torch.cat([result["gradient"] for result in results]), values.grad)
        for name, parameter in norm.named_parameters():
            close(results[0][name], parameter.grad)
        for name, buffer in norm.named_buffers():
            torch.testing.assert_close(results[0][name], buffer, rtol=1e-12, atol=0)
            assert all(torch.equal(result[name], results[0][name]) for result in results)


def _in_half_precision(world: World) -> tuple[torch.dtype, float]:
    norm = ParallelBatchNorm.of(nn.BatchNorm2d(CHANNELS), group=dist.group.WORLD)
    values, _ = a_batch(4, (3, 3))
    mine = (values.detach() - 1000)[2 * world.rank : 2 * world.rank + 2]
    output = norm(mine.bfloat16())
    expected = nn.BatchNorm2d(CHANNELS)(values.detach().float() - 1000)[2 * world.rank : 2 * world.rank + 2]
    return output.dtype, (output - expected).abs().max().item()


def test_half_precision_goes_in_and_out() -> None:
    for dtype, error in in_world(2, _in_half_precision):
        assert dtype == torch.bfloat16
        assert error < 0.03


def test_a_trained_layer_evaluates_as_the_one_it_replaced() -> None:
    norm = a_norm((0, 0, 2, 2))
    values, _ = a_batch(6, (2, 2))
    norm(values)
    norm.eval()
    replaced = ParallelBatchNorm.of(norm)
    assert not replaced.training
    assert torch.equal(replaced(values), norm(values))
    assert replaced.state_dict().keys() == norm.state_dict().keys()


def test_without_a_group_it_is_local_batch_norm() -> None:
    norm, values = a_norm((0, 0, 2, 2)), a_batch(6, (2, 2))[0]
    replaced = ParallelBatchNorm.of(a_norm((0, 0, 2, 2)))
    assert torch.equal(replaced(values), norm(values))
    assert torch.equal(replaced.running_var, norm.running_var)  # type: ignore[arg-type]
    assert replaced.num_batches_tracked == 1
