from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from scaling_training.parallel import Mesh
from scaling_training.parallel.gradients import MeanGradients, cut
from scaling_training.parallel.parallelize import parallelize
from scaling_training.parallel.replica import Replica
from scaling_training.train import World
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.parallel.small_models import a_batch, a_task
from tests.unit.scaling_training.parallel.stepping import Case, forward_backward
from tests.unit.scaling_training.worlds import in_world

MEBI = 2**20


def sized(*mebibytes: float, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [
        nn.Parameter(torch.empty(int(size * MEBI) // dtype.itemsize, dtype=dtype, device="meta")) for size in mebibytes
    ]


def test_buckets_are_cut_once_they_are_full_the_first_one_early() -> None:
    parameters = sized(0.5, 0.5, 12, 12, 12, 1)
    assert [len(bucket) for bucket in cut(parameters)] == [2, 3, 1]


def test_a_bucket_holds_one_type() -> None:
    parameters = [*sized(0.1, 0.1), *sized(0.1, dtype=torch.bfloat16), *sized(0.1)]
    assert [len(bucket) for bucket in cut(parameters)] == [2, 1, 1]


class _Branches(nn.Module):
    """Layers of several buckets; the branch that is taken decides which of them get gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(400, 400, dtype=torch.float64) for _ in range(4))

    def forward(self, values: torch.Tensor, taken: list[int]) -> torch.Tensor:
        for number in taken:
            values = torch.relu(self.layers[number](values))
        return values.sum()


def _branching(world: World) -> None:
    model = _Branches()
    group = dist.group.WORLD
    assert group is not None
    gradients = MeanGradients(model.parameters(), group)
    # Rank 0 takes its layers in another order than the others and leaves one out; nobody takes layer 2.
    orders = [[3, 0], [0, 1, 3], [0, 1, 3]]
    for _ in range(2):
        model.zero_grad()
        gradients.open()
        model(torch.full((2, 400), 1.0 + world.rank, dtype=torch.float64), orders[world.rank]).backward()
        gradients.close()
    expected = _Branches()
    for rank, order in enumerate(orders):
        (expected(torch.full((2, 400), 1.0 + rank, dtype=torch.float64), order) / 3).backward()
    for (name, found), (_, wanted) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
        gradient = torch.zeros_like(wanted) if wanted.grad is None else wanted.grad
        torch.testing.assert_close(found.grad, gradient, rtol=1e-12, atol=1e-12, msg=name)


def test_ranks_may_reach_other_layers_in_another_order() -> None:
    in_world(3, _branching)


def _resumed(world: World, steps: int, resumed_at: int) -> dict[str, torch.Tensor]:
    """Weights after so many steps of Adam, with everything made anew from the state at one of them."""
    spec = a_spec(parallelism={})

    def made() -> tuple[Mesh, Replica, torch.optim.Optimizer]:
        mesh = Mesh.of(spec.training.parallelism, world)
        replica = parallelize(a_task("small-cnn", torch.float32), mesh, spec=spec)
        return mesh, replica, torch.optim.Adam(replica.model.parameters(), 1e-3)

    mesh, replica, optimizer = made()
    for step in range(steps):
        if step == resumed_at:
            weights, moments = replica.model.state_dict(), optimizer.state_dict()
            mesh, replica, optimizer = made()
            replica.model.load_state_dict(weights)
            optimizer.load_state_dict(moments)
        optimizer.zero_grad()
        forward_backward(replica, mesh, a_batch("small-cnn", 11, step, torch.float32), Case("small-cnn"))
        optimizer.step()
    return {name: value.clone() for name, value in replica.model.state_dict().items()}


def _resumed_and_straight(world: World) -> list[dict[str, torch.Tensor]]:
    return [_resumed(world, 6, resumed_at) for resumed_at in (0, 3)]


@pytest.mark.parametrize("size", [3, 4])
def test_a_resumed_run_ends_with_the_same_bits(size: int) -> None:
    for straight, resumed in in_world(size, _resumed_and_straight):
        for name, value in straight.items():
            assert torch.equal(resumed[name], value), name


def _unfrozen(world: World, axes: dict[str, int]) -> list[list[str]]:
    """Which parameters have gradients while the first layer is frozen, and after."""
    task = a_task("mnist-cnn")
    layers = list(task.model.children())
    layers[0].requires_grad_(False)
    spec = a_spec(parallelism=axes)
    mesh = Mesh.of(spec.training.parallelism, world)
    replica = parallelize(task, mesh, spec=spec)
    seen = []
    for frozen in (True, False):
        for parameter in next(replica.model.children()).parameters():
            parameter.requires_grad_(not frozen)
        replica.model.zero_grad()
        forward_backward(replica, mesh, a_batch("mnist-cnn", 8, 0), Case("mnist-cnn"))
        seen.append([name for name, parameter in replica.model.named_parameters() if parameter.grad is not None])
    return seen


def _taking_turns(world: World) -> None:
    model = nn.ModuleList(nn.Linear(3, 1, bias=False) for _ in range(2))
    group = dist.group.WORLD
    assert group is not None
    gradients = MeanGradients(model.parameters(), group)
    for trained in (0, 1, 0):
        for number, layer in enumerate(model):
            layer.requires_grad_(number == trained)
        model.zero_grad()
        gradients.open()
        model[trained](torch.full((1, 3), float(world.rank))).sum().backward()
        gradients.close()
        assert [parameter.grad is None for parameter in model.parameters()] == [trained != 0, trained != 1]
        torch.testing.assert_close(next(model[trained].parameters()).grad, torch.full((1, 3), 0.5))


def test_layers_can_take_turns() -> None:
    in_world(2, _taking_turns)


@pytest.mark.parametrize("axes", [{"data": 2}, {"fsdp": 2}, {"tensor": 2}], ids=lambda axes: next(iter(axes)))
def test_layers_can_be_unfrozen_while_training(axes: dict[str, int]) -> None:
    for before, after in in_world(2, _unfrozen, axes):
        assert before == ["4.weight", "4.bias", "6.weight", "6.bias"]
        assert after == ["0.weight", "0.bias", *before]
