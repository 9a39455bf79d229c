from __future__ import annotations

import pickle

import pytest
import torch

from scaling_api.parallelism import Parallelism
from scaling_training.optim.tensors import local
from scaling_training.parallel import Mesh, MeshShape, consistency
from scaling_training.parallel.consistency import (
    Divergence,
    ReplicasDifferError,
    check_replicas,
    digest,
    divergences,
    divided_axes,
)
from scaling_training.parallel.parallelize import parallelize
from scaling_training.train import World
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.parallel.small_models import a_task
from tests.unit.scaling_training.worlds import in_world


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8])
def test_a_digest_sees_a_change_of_one_bit_and_of_the_order(dtype: torch.dtype) -> None:
    values = torch.arange(1, 13).to(dtype).reshape(3, 4)
    changed, swapped = values.clone(), values.flip(0)
    changed.view(torch.uint8)[1, 2] ^= 1
    assert not torch.equal(digest(values), digest(changed))
    assert not torch.equal(digest(values), digest(swapped))
    assert torch.equal(digest(values), digest(values.t().contiguous().t()))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7, 100), (64, 4, 5, 3), (1, 1000)])
@pytest.mark.parametrize("chunk", [1, 13, 64, 2**20])
def test_a_digest_in_chunks_is_that_of_the_whole(
    shape: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consistency, "_CHUNK", chunk)
    values = torch.randn(shape)
    bits = values.reshape(-1).view(torch.int32).tolist()
    sums = (sum(bits), sum((2 * place + 1) * consistency._MULTIPLIER * value for place, value in enumerate(bits)))
    wanted = [(number + 2**63) % 2**64 - 2**63 for number in sums]
    assert digest(values).tolist() == wanted
    if len(shape) == 4:
        assert digest(values.contiguous(memory_format=torch.channels_last)).tolist() == wanted


def test_a_digest_tells_zeros_of_either_sign() -> None:
    assert not torch.equal(digest(torch.tensor([0.0])), digest(torch.tensor([-0.0])))


HSDP = MeshShape(data=2, fsdp=2)


@pytest.mark.parametrize(
    ("by_rank", "divided", "expected"),
    [
        pytest.param("aaaa", (), None, id="all equal"),
        pytest.param("aaba", (), ((2,), (0, 1, 2, 3)), id="one is another"),
        pytest.param("baaa", (), ((0,), (0, 1, 2, 3)), id="most are right, rank 0 or not"),
        pytest.param("aabb", (), ((2, 3), (0, 1, 2, 3)), id="halves: rank 0 counts as right"),
        pytest.param("abab", ("fsdp",), None, id="two slices, equal on their replicas"),
        pytest.param("abac", ("fsdp",), ((3,), (1, 3)), id="a slice differs from its replica"),
        pytest.param("abcd", ("data", "fsdp"), None, id="all slices: nothing to compare"),
    ],
)
def test_only_what_holds_the_same_slice_is_compared(
    by_rank: str, divided: tuple[str, ...], expected: tuple[tuple[int, ...], tuple[int, ...]] | None
) -> None:
    digests = {"head.weight": [(ord(letter), 0) for letter in by_rank]}
    found = divergences(digests, {"head.weight": frozenset(divided)}, HSDP)
    assert found == ([Divergence("head.weight", *expected)] if expected else [])


def test_the_error_survives_its_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ReplicasDifferError([Divergence("a.weight", (2,), (0, 1, 2))])))
    assert "the weights of a.weight differ on rank 2 from its peers 0, 1" in str(error)


def _disturbed(world: World, axes: dict[str, int]) -> list[tuple[str, str, bool]]:
    """For each parameter that has a replica: its name, and what is said after one bit changed on the last rank."""
    mesh = Mesh.of(Parallelism.model_validate(axes), world)
    replica = parallelize(a_task("transformer"), mesh, spec=a_spec(parallelism=axes))
    check_replicas(replica.model, mesh)
    said = []
    # Of a parameter of one row the last rank holds nothing.
    tall = [(name, parameter) for name, parameter in replica.model.named_parameters() if len(parameter) > 1]
    for name, parameter in tall[::6]:
        bits = local(parameter).view(-1).view(torch.int64)
        if world.rank == world.size - 1:
            bits[-1:] ^= 1
        try:
            check_replicas(replica.model, mesh)
            said.append((name, "", bool(divided_axes(parameter))))
        except ReplicasDifferError as error:
            said.append((name, str(error), bool(divided_axes(parameter))))
        if world.rank == world.size - 1:
            bits[-1:] ^= 1
    return said


def _a_stage_disturbed(world: World) -> list[str]:
    """What is said of replicas that are equal, and then of one bit changed on the last rank."""
    axes = {"data": 2, "pipeline": 2}
    mesh = Mesh.of(Parallelism.model_validate(axes), world)
    replica = parallelize(a_task("transformer"), mesh, spec=a_spec(parallelism=axes))
    said = []
    for disturbed in (False, True):
        if disturbed and world.rank == world.size - 1:
            replica.model.get_parameter("head.bias").detach().view(torch.int64)[-1:] ^= 1
        try:
            check_replicas(replica.model, mesh)
            said.append("")
        except ReplicasDifferError as error:
            said.append(str(error))
    return said


def test_every_stage_hears_that_the_replicas_of_one_differ() -> None:
    for before, after in in_world(4, _a_stage_disturbed):
        assert before == ""
        assert "the weights of head.bias differ on rank 3 from its peers 2:" in after


@pytest.mark.parametrize(
    ("axes", "last_peers"),
    [({"data": 2, "tensor": 2}, "1"), ({"data": 2, "fsdp": 2}, "1")],
    ids=["tensor", "fsdp"],
)
def test_one_changed_bit_is_found_and_named_on_every_rank(axes: dict[str, int], last_peers: str) -> None:
    said = in_world(4, _disturbed, axes)
    assert said[0] == said[1] == said[2] == said[3]
    for name, message, divided in said[0]:
        peers = last_peers if divided else "0, 1, 2"
        assert f"the weights of {name} differ on rank 3 from its peers {peers}:" in message
    assert any(divided for _, _, divided in said[0])
