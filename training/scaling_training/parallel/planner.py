"""``parallelism: {auto: true}``: which mesh, and how many micro-batches, for the workers at hand. Pure.

All meshes of so many workers are weighed by the model of costs. Those that do not fit into memory take more
micro-batches until they do, or drop out. Of the rest the fastest is taken; of those that are nearly as fast, the one
with fewer axes, because the estimate is not finer than that. Planning again for another number of workers is
calling it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scaling_training.errors import UserError
from scaling_training.parallel.costs import Machine, Memory, Volume, memory, seconds, volume
from scaling_training.parallel.mesh import MeshShape

if TYPE_CHECKING:
    from scaling_training.parallel.facts import ModelFacts

# Estimates within this share of the best count as equal.
_EQUAL = 0.03
# What allocator and workspaces take besides what is counted.
_USABLE = 0.85


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one mesh would cost."""

    shape: MeshShape
    micro_batches: int
    seconds: float
    memory: Memory
    volume: Volume

    @property
    def axes(self) -> int:
        """How many axes are in use."""
        return sum(size > 1 for size in self.shape.sizes)


@dataclass(frozen=True, slots=True)
class Choice:
    """The mesh that was chosen, why, and what it was chosen from, the fastest first."""

    chosen: Estimate
    estimates: tuple[Estimate, ...]
    explanation: tuple[str, ...]  # sentences


def plan_mesh(model: ModelFacts, machine: Machine, *, workers: int, batch_size: int, optimizer_tensors: int) -> Choice:
    """The mesh for so many workers; UserError when no mesh fits into memory."""
    fitting: list[Estimate] = []
    smallest: Estimate | None = None
    for shape in shapes(workers, batch_size=batch_size, tensor_sizes=model.tensor_sizes):
        estimate = _estimate(model, machine, shape, batch_size=batch_size, optimizer_tensors=optimizer_tensors)
        if estimate.memory.total <= _USABLE * machine.memory:
            fitting.append(estimate)
        if smallest is None or estimate.memory.total < smallest.memory.total:
            smallest = estimate
    if smallest is None:
        raise UserError(
            f"training.parallelism.auto: no mesh of {workers} workers leaves each a sample of training.batchSize "
            f"{batch_size}; raise batchSize or use fewer workers"
        )
    if not fitting:
        raise UserError(
            f"training.parallelism.auto: the model needs {_mebibytes(smallest.memory.total)} per worker even as "
            f"{smallest.shape}, and a worker has {_mebibytes(_USABLE * machine.memory)}; use more workers or a smaller "
            f"model.width"
        )
    ranked = tuple(sorted(fitting, key=lambda estimate: estimate.seconds))
    equal = [estimate for estimate in ranked if estimate.seconds <= ranked[0].seconds * (1 + _EQUAL)]
    chosen = min(equal, key=lambda estimate: (estimate.axes, estimate.micro_batches, estimate.seconds))
    return Choice(chosen, ranked, tuple(_explain(chosen, ranked, model, workers)))


def shapes(workers: int, *, batch_size: int, tensor_sizes: frozenset[int]) -> Iterator[MeshShape]:
    """All meshes of data, fsdp and tensor axes over so many workers that leave each batch rank a sample."""
    for tensor in (1, *sorted(tensor_sizes)):
        if workers % tensor:
            continue
        batch_ranks = workers // tensor
        if batch_ranks > batch_size:
            continue
        for fsdp in range(1, batch_ranks + 1):
            if batch_ranks % fsdp == 0:
                yield MeshShape(data=batch_ranks // fsdp, fsdp=fsdp, tensor=tensor)


def _estimate(
    model: ModelFacts, machine: Machine, shape: MeshShape, *, batch_size: int, optimizer_tensors: int
) -> Estimate:
    samples = -(-batch_size // shape.batch_ranks)
    micro_batches = 1
    while True:
        needed = memory(
            model, shape, batch_size=batch_size, micro_batches=micro_batches, optimizer_tensors=optimizer_tensors
        )
        if needed.total <= _USABLE * machine.memory or micro_batches >= samples:
            break
        micro_batches = min(2 * micro_batches, samples)
    took = seconds(model, shape, machine, batch_size=batch_size, micro_batches=micro_batches)
    return Estimate(shape, micro_batches, took, needed, volume(model, shape, batch_size=batch_size))


def _explain(chosen: Estimate, ranked: tuple[Estimate, ...], model: ModelFacts, workers: int) -> Iterator[str]:
    pieces = f", in {chosen.micro_batches} micro-batches to fit into memory" if chosen.micro_batches > 1 else ""
    yield (
        f"{workers} workers as {chosen.shape}{pieces}: about {1000 * chosen.seconds:.3g} ms per step, "
        f"{_mebibytes(chosen.memory.total)} held and {_mebibytes(chosen.volume.total)} sent per worker."
    )
    other = next((estimate for estimate in ranked if estimate.shape != chosen.shape), None)
    if other is not None:
        slower = other.seconds / chosen.seconds - 1
        how = f"{100 * slower:.0f} % slower" if slower > _EQUAL else "about as fast, with more axes or more to come by"
        yield f"Next best is {other.shape}, {how}, with {_mebibytes(other.volume.total)} sent per worker."
    if not model.tensor_sizes:
        yield "A tensor axis is out: the model's layers are not of a kind that can be divided by 2 or more."


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"
