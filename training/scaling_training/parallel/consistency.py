"""Whether the processes that should hold the same weights do; and giving them the same buffers.

Each process takes two 64-bit sums over the bits of every parameter it holds: a plain one, and one weighted by
position. The sums of all processes are compared; what travels is 16 bytes per parameter and process. A tensor that
is divided along an axis is compared among the processes that hold the same slice, and the stages of a pipeline, which
hold different parameters, each by itself. Batch norm's running statistics
are no part of it: where batch norm is local they differ rightly, until `broadcast_buffers`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from scaling_training.optim.tensors import local
from scaling_training.parallel.mesh import AXES, Mesh, MeshShape

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_MULTIPLIER = 0x5851F42D4C957F2D  # Knuth's MMIX generator; odd, so no bit of a number is lost
_CHUNK = 2**20  # numbers; 24 MiB of temporaries

Digest = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Divergence:
    """A parameter that is not the same where it should be."""

    name: str
    ranks: tuple[int, ...]  # those that disagree with most of their peers; of equal halves, the higher ranks
    peers: tuple[int, ...]  # all that should hold the same


class ReplicasDifferError(RuntimeError):
    """Weights that should be equal differ. Training on would give a model that no process trained."""

    def __init__(self, divergences: Sequence[Divergence]) -> None:
        first = divergences[0]
        others = f" (and {len(divergences) - 1} more tensors)" if len(divergences) > 1 else ""
        super().__init__(
            f"the weights of {first.name}{others} differ on rank {', '.join(map(str, first.ranks))} from its peers "
            f"{', '.join(map(str, sorted(set(first.peers) - set(first.ranks))))}: a process computed something else, "
            f"by faulty hardware or by code that depends on the rank; go on from an earlier checkpoint"
        )
        self.divergences = tuple(divergences)

    def __reduce__(self) -> tuple[type[ReplicasDifferError], tuple[tuple[Divergence, ...]]]:
        return type(self), (self.divergences,)


def broadcast_buffers(mesh: Mesh, model: nn.Module) -> None:
    """Give all batch ranks the first one's buffers (batch norm's running statistics)."""
    if mesh.batch_group is not None:
        for buffer in model.buffers():
            dist.broadcast(local(buffer), group=mesh.batch_group, group_src=0)


def check_replicas(model: nn.Module, mesh: Mesh) -> None:
    """ReplicasDifferError, on every rank alike, when parameters differ; a collective operation."""
    if mesh.shape.size == 1:
        return
    found = _within_stage(model, mesh)
    if mesh.shape.pipeline > 1:
        of_stages: list[list[Divergence]] = [[] for _ in range(mesh.shape.size)]
        dist.all_gather_object(of_stages, found)
        found = list(dict.fromkeys(divergence for of_rank in of_stages for divergence in of_rank))
    if found:
        raise ReplicasDifferError(found)


def _within_stage(model: nn.Module, mesh: Mesh) -> list[Divergence]:
    """What differs among the processes that hold the same stage of a pipeline; without one those are all."""
    # The pipeline axis is the outermost one, so a stage is a run of ranks.
    shape = replace(mesh.shape, pipeline=1)
    if shape.size == 1:
        return []
    held = dict(model.named_parameters())
    mine = torch.stack([digest(local(parameter)) for parameter in held.values()])
    parts = [torch.empty_like(mine) for _ in range(shape.size)]
    dist.all_gather(parts, mine, group=mesh.batch_group if mesh.shape.pipeline > 1 else None)
    digests = {name: [tuple(part[row].tolist()) for part in parts] for row, name in enumerate(held)}
    divided = {name: divided_axes(parameter) for name, parameter in held.items()}
    return divergences(digests, divided, shape, first_rank=mesh.pipeline_rank * shape.size)


def digest(values: torch.Tensor) -> torch.Tensor:
    """Two sums over the bits of a tensor, as int64 [2]; any single change of a number changes both.

    Some numbers at a time, so that a tensor of any size takes the same few megabytes besides its own.
    """
    weights = torch.arange(min(_CHUNK, values.numel()), device=values.device).mul_(2).add_(1).mul_(_MULTIPLIER)
    plain = torch.zeros((), dtype=torch.int64, device=values.device)
    weighted = torch.zeros_like(plain)
    start = 0
    for chunk in _chunks(values):
        bits = chunk.view(_INTEGERS[chunk.element_size()]).long()
        total = bits.sum()
        plain += total
        # The weight of position p is (2 p + 1) m: that within the chunk, and 2 m for each position before it.
        weighted += weights[: len(bits)].mul(bits).sum() + total * _wrapped(2 * start * _MULTIPLIER)
        start += len(bits)
    return torch.stack((plain, weighted))


def _chunks(values: torch.Tensor) -> Iterator[torch.Tensor]:
    """The numbers in the order of their indices, flat; a tensor in another order (channels-last) is copied in parts."""
    if values.is_contiguous():
        yield from torch.split(values.view(-1), _CHUNK)
        return
    rows = max(1, _CHUNK * len(values) // max(1, values.numel()))
    for part in torch.split(values, rows):
        yield from torch.split(part.contiguous().view(-1), _CHUNK)


def _wrapped(number: int) -> int:
    """Modulo 2^64, as int64 counts."""
    return (number + 2**63) % 2**64 - 2**63


def divided_axes(parameter: torch.Tensor) -> frozenset[str]:
    """The axes along which the processes hold different slices of it."""
    if not isinstance(parameter, DTensor):
        return frozenset()
    names = parameter.device_mesh.mesh_dim_names
    assert names is not None
    placed = zip(names, parameter.placements, strict=True)
    return frozenset(axis for axis, placement in placed if not placement.is_replicate())


def divergences(
    digests: Mapping[str, Sequence[Digest]],
    divided: Mapping[str, frozenset[str]],
    shape: MeshShape,
    *,
    first_rank: int = 0,
) -> list[Divergence]:
    """What differs among the ranks that hold the same slice; ``digests`` are by parameter, then by rank.

    The ranks are those of a mesh of this shape, counted from ``first_rank``.
    """
    found = []
    for name, by_rank in digests.items():
        slices: dict[tuple[int, ...], list[int]] = {}
        kept = [axis for axis in range(len(AXES)) if AXES[axis] in divided[name]]
        for rank in range(shape.size):
            coordinates = shape.coordinates(rank)
            slices.setdefault(tuple(coordinates[axis] for axis in kept), []).append(rank)
        for peers in slices.values():
            # Of equally many, the digest that comes first, so rank 0's, counts as the right one.
            right, agreeing = Counter(by_rank[rank] for rank in peers).most_common(1)[0]
            if agreeing < len(peers):
                wrong = tuple(first_rank + rank for rank in peers if by_rank[rank] != right)
                found.append(Divergence(name, wrong, tuple(first_rank + rank for rank in peers)))
    return found
