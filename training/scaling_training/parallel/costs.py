"""What a mesh costs each worker per step: bytes sent, memory, seconds. Pure; docs/scaling.md explains the formulas.

Collectives count as their ring algorithms send: of n bytes over k ranks, an all-reduce sends 2 (k-1)/k n, an
all-gather and a reduce-scatter (k-1)/k n each (Patarasuk and Yuan, 2009; n is the whole, gathered size). A
collective takes latency + bytes / bandwidth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scaling_training.parallel.mesh import MeshShape

if TYPE_CHECKING:
    from scaling_training.parallel.facts import ModelFacts

# DDP's bucket size, as in gradients.py.
_BUCKET = 25 * 2**20
# FSDP gathers a unit forward and backward and scatters its gradient.
_FSDP_CALLS = 3


@dataclass(frozen=True, slots=True)
class Machine:
    """What a worker can do, measured while all workers are busy."""

    fixed_s: float  # forward and backward of a micro-batch, whatever its size
    sample_s: float  # and for each sample
    latency_s: float  # of a collective
    bytes_per_s: float
    memory: float  # bytes
    fsdp_unit_s: float  # of FSDP itself, per unit and step: hooks, copies into and out of flat buffers
    overlap: float  # share of data and fsdp communication that hides behind the backward pass


@dataclass(frozen=True, slots=True)
class Volume:
    """Bytes that a worker sends per step, by axis."""

    data: float
    fsdp: float
    tensor: float

    @property
    def total(self) -> float:
        """Over all axes."""
        return self.data + self.fsdp + self.tensor


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a worker holds at the peak of a step."""

    parameters: float
    gradients: float  # with the buckets in which they are averaged
    optimizer: float
    gathered: float  # what FSDP gathers for a while: a unit, the one fetched ahead, and the unit's gradient
    activations: float

    @property
    def total(self) -> float:
        """In all."""
        return self.parameters + self.gradients + self.optimizer + self.gathered + self.activations


def held_parameters(model: ModelFacts, shape: MeshShape) -> float:
    """Parameters that the tensor axis leaves to a worker, before FSDP shards them."""
    return model.parameters - model.divided * (1 - 1 / shape.tensor)


def volume(model: ModelFacts, shape: MeshShape, *, batch_size: int) -> Volume:
    """Bytes sent per step by a worker, in one micro-batch."""
    held = held_parameters(model, shape)
    padded = model.padded(shape.fsdp) * held / model.parameters * model.element
    trained = padded * model.trained_share
    data = 2 * _share(shape.data) * trained / shape.fsdp
    # The root's parameters stay gathered between forward and backward.
    gathers = 2 - model.root_left(shape.tensor) / held
    fsdp = _share(shape.fsdp) * (gathers * padded + trained)
    samples = batch_size / shape.batch_ranks
    summed = 2 * (model.summed_forward + model.summed_backward) + model.gathered
    tensor = samples * summed * model.element * _share(shape.tensor)
    return Volume(data, fsdp, tensor)


def memory(
    model: ModelFacts, shape: MeshShape, *, batch_size: int, micro_batches: int, optimizer_tensors: int
) -> Memory:
    """Bytes at the peak; ``optimizer_tensors``: how many numbers the optimizer keeps per parameter."""
    left = held_parameters(model, shape)
    held = left / shape.fsdp * model.element
    gathered = 3 * model.largest_unit * left / model.parameters * model.element if shape.fsdp > 1 else 0.0
    trained = held * model.trained_share
    # Without FSDP gradients are averaged in buckets of their own, beside those that the backward pass makes.
    gradients = 2 * trained if shape.data > 1 and shape.fsdp == 1 else trained
    samples = math.ceil(math.ceil(batch_size / shape.batch_ranks) / micro_batches)
    kept = model.activations - model.divided_activations * (1 - 1 / shape.tensor)
    return Memory(held, gradients, optimizer_tensors * trained, gathered, samples * kept * model.element)


def seconds(model: ModelFacts, shape: MeshShape, machine: Machine, *, batch_size: int, micro_batches: int) -> float:
    """Duration of a step's forward and backward passes."""
    samples = batch_size / shape.batch_ranks
    kept = 1 - model.divided_flops / max(model.flops, 1.0) * (1 - 1 / shape.tensor)
    compute = micro_batches * machine.fixed_s + samples * machine.sample_s * kept
    sent = volume(model, shape, batch_size=batch_size)
    data_calls = math.ceil(model.trained * model.element / _BUCKET) if shape.data > 1 else 0
    fsdp_calls = _FSDP_CALLS * model.gathered_units if shape.fsdp > 1 else 0
    replicated = (data_calls + fsdp_calls) * machine.latency_s + (sent.data + sent.fsdp) / machine.bytes_per_s
    tensor_calls = micro_batches * model.tensor_calls if shape.tensor > 1 else 0
    divided = tensor_calls * machine.latency_s + sent.tensor / machine.bytes_per_s
    overhead = model.gathered_units * machine.fsdp_unit_s if shape.fsdp > 1 else 0.0
    return compute + replicated * (1 - machine.overlap) + divided + overhead


def _share(ranks: int) -> float:
    return (ranks - 1) / ranks
