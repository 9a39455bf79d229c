"""What each kind of mesh sends and holds per worker, from 8 to 1,024 GPUs: the tables of docs/scaling.md.

Computed, not measured: the formulas are those of scaling_training.parallel.costs, which a test checks by counting at 1,
2 and 4 workers. Seconds rest on the assumptions below.

    python -m bench.bench_scaling
"""

from __future__ import annotations

import math
import sys

import torch

from scaling_api.spec import ModelSpec
from scaling_training.models import build_task
from scaling_training.models.dropout import keyed
from scaling_training.parallel import MeshShape
from scaling_training.parallel.costs import memory, volume
from scaling_training.parallel.facts import ModelFacts, facts_of

# Assumptions: an H100-class GPU in machines of eight.
MACHINE = 8
FLOPS = 67e12 * 0.4  # single precision without tensor cores, at 40 % use
INSIDE, BETWEEN = 300e9, 40e9  # bytes per second that a GPU sends within a machine, and to other machines
LATENCY = 20e-6  # seconds of a collective, and as much again for each doubling of machines
OVERLAP = 0.8  # share of data and fsdp communication behind the backward pass
SAMPLES = 32  # per GPU and step
OPTIMIZER_TENSORS = 2  # Adam
GPUS = (8, 64, 256, 1024)


def main() -> int:
    """Print the tables."""
    for name, width, side, channels in (("mobilenet_v2", 1.0, 224, 3), ("vit-tiny", 8.0, 32, 3)):
        model = _facts(name, width, side, channels)
        print(f"\n{name}, width {width:g}, {side}x{side}: {model.parameters / 1e6:.1f} million parameters\n")
        print(
            "| GPUs | mesh | sent per step, MiB: data | fsdp | tensor | held, MiB | of it activations | ms per step "
            "| efficiency |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for gpus in GPUS:
            for shape in _shapes(gpus, model):
                print(_row(model, gpus, shape))
    return 0


def _facts(name: str, width: float, side: int, channels: int) -> ModelFacts:
    spec = ModelSpec.model_validate({"name": name, "width": width})
    task = build_task(spec, input_shape=(channels, side, side), classes=1000, seed=0)
    task.model.train()
    with keyed(task.model, torch.arange(2)):
        images = torch.randn(2, channels, side, side)
        return facts_of(task.model, lambda: task.model(images), samples=2, largest_tensor=MACHINE)


def _shapes(gpus: int, model: ModelFacts) -> list[MeshShape]:
    meshes = [MeshShape(data=gpus), MeshShape(fsdp=gpus), MeshShape(data=gpus // MACHINE, fsdp=MACHINE)]
    if MACHINE in model.tensor_sizes:
        meshes.append(MeshShape(data=gpus // MACHINE, tensor=MACHINE))
    return list(dict.fromkeys(meshes))


def _row(model: ModelFacts, gpus: int, shape: MeshShape) -> str:
    batch = SAMPLES * gpus
    sent = volume(model, shape, batch_size=batch)
    held = memory(model, shape, batch_size=batch, micro_batches=1, optimizer_tensors=OPTIMIZER_TENSORS)
    machines = max(1, gpus // MACHINE)
    latency = LATENCY * (1 + math.log2(machines))
    # The innermost axes lie within a machine: tensor, then fsdp, then data.
    fsdp_speed = INSIDE if shape.fsdp * shape.tensor <= MACHINE else BETWEEN
    data_speed = INSIDE if gpus <= MACHINE else BETWEEN
    # Forward, and twice as much backward; a tensor axis leaves the work of the whole batch to its ranks together.
    ideal = 3 * SAMPLES * model.flops / FLOPS
    whole = 3 * SAMPLES * shape.tensor * (model.flops - model.divided_flops * (1 - 1 / shape.tensor)) / FLOPS
    calls = (shape.data > 1) * math.ceil(4 * model.parameters / 2**20 / 25)
    calls += (shape.fsdp > 1) * 3 * model.gathered_units
    replicated = calls * latency + sent.data / data_speed + sent.fsdp / fsdp_speed
    divided = (shape.tensor > 1) * model.tensor_calls * LATENCY + sent.tensor / INSIDE
    took = whole + divided + max(replicated - OVERLAP * whole * 2 / 3, (1 - OVERLAP) * replicated)
    mebi = 2**20
    return (
        f"| {gpus} | {shape} | {sent.data / mebi:,.1f} | {sent.fsdp / mebi:,.1f} | {sent.tensor / mebi:,.1f} | "
        f"{held.total / mebi:,.0f} | {held.activations / mebi:,.0f} | {1000 * took:.2f} | {100 * ideal / took:.0f} % |"
    )


if __name__ == "__main__":
    sys.exit(main())
