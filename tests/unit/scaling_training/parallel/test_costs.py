"""The formulas against what is counted and held."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch

from scaling_training.optim.tensors import local
from scaling_training.parallel import Mesh, MeshShape
from scaling_training.parallel.blocks import repeated_blocks
from scaling_training.parallel.costs import held_parameters, memory, volume
from scaling_training.parallel.facts import ModelFacts, facts_of
from scaling_training.parallel.gradients import MeanGradients
from scaling_training.parallel.parallelize import parallelize
from scaling_training.train import World
from tests.unit.scaling_training.builders import a_spec
from tests.unit.scaling_training.parallel.small_models import a_batch, a_task, dropout
from tests.unit.scaling_training.parallel.stepping import Case, forward_backward
from tests.unit.scaling_training.parallel.traffic import Traffic
from tests.unit.scaling_training.worlds import in_world

SAMPLES = 8
MODELS = ("small-cnn", "mobilenet", "transformer")
MESHES: dict[int, tuple[dict[str, int], ...]] = {
    1: ({},),
    2: ({"data": 2}, {"fsdp": 2}, {"tensor": 2}),
    4: (
        *({"data": 4}, {"fsdp": 4}, {"tensor": 4}),
        *({"data": 2, "fsdp": 2}, {"data": 2, "tensor": 2}, {"fsdp": 2, "tensor": 2}),
    ),
}


def facts(name: str) -> ModelFacts:
    task = a_task(name, torch.float32)
    batch = a_batch(name, SAMPLES, 0, torch.float32)
    with dropout(task.model, batch):
        return facts_of(task.model, lambda: task.model(batch.inputs), samples=SAMPLES, largest_tensor=4)


def test_with_blocks_recomputed_each_keeps_its_input_alone_and_one_the_rest() -> None:
    """So another block costs its input, and not what it computes."""
    entering: list[int] = []

    def kept(name: str, *, recomputed: bool) -> float:
        task = a_task(name, torch.float32)
        batch = a_batch(name, SAMPLES, 0, torch.float32)
        entering.clear()
        for block in repeated_blocks(task.model):
            block.register_forward_pre_hook(lambda block, inputs: entering.append(inputs[0].numel()))
        with dropout(task.model, batch):
            found = facts_of(
                task.model,
                lambda: task.model(batch.inputs),
                samples=SAMPLES,
                largest_tensor=1,
                recomputed=recomputed,
            )
        return found.activations * SAMPLES

    two, three = (kept(name, recomputed=True) for name in ("transformer", "deep-transformer"))
    assert three - two == entering[-1]
    plain, deeper = (kept(name, recomputed=False) for name in ("transformer", "deep-transformer"))
    assert deeper - plain > 5 * entering[-1]
    assert plain > two


def _counted(world: World, cases: list[tuple[str, dict[str, Any]]]) -> list[tuple[float, int, int]]:
    """Bytes sent in a step, elements of parameters held after it, and of gradients at its end, buckets included."""
    counted = []
    for name, axes in cases:
        task = a_task(name, torch.float32)
        spec = a_spec(parallelism=axes)
        mesh = Mesh.of(spec.training.parallelism, world)
        replica = parallelize(task, mesh, spec=spec, around=partial(dropout, task.model))
        batch = a_batch(name, SAMPLES, 0, torch.float32)
        parameters = list(replica.model.parameters())
        averaging = replica._gradients
        with_buckets = _noting_at_the_end(averaging, parameters) if averaging is not None else []
        with Traffic() as traffic:
            forward_backward(replica, mesh, batch, Case(name))
        held = sum(local(parameter).numel() for parameter in parameters)
        gradients = sum(local(parameter.grad).numel() for parameter in parameters if parameter.grad is not None)
        counted.append((sum(traffic.sent.values()), held, with_buckets[0] if with_buckets else gradients))
    return counted


def _noting_at_the_end(averaging: MeanGradients, parameters: Sequence[torch.nn.Parameter]) -> list[int]:
    """Filled with the elements of gradients and buckets when the backward pass has made the last one."""
    noted: list[int] = []
    close = averaging.close

    def closing() -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        noted.append(_elements([*(bucket.flat for bucket in averaging._buckets), *gradients]))
        close()

    averaging.close = closing  # type: ignore[method-assign]
    return noted


def _elements(tensors: Sequence[torch.Tensor]) -> int:
    """Of all their memory, each counted once."""
    parts = [local(tensor) for tensor in tensors]
    return sum({part.untyped_storage().data_ptr(): part.numel() for part in parts}.values())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_bytes_sent_and_numbers_held_are_those_of_the_formulas(size: int) -> None:
    cases = [
        (name, axes)
        for name in MODELS
        for axes in MESHES[size]
        # The test's MobileNetV2 has channels that do not divide by 4.
        if axes.get("tensor", 1) in (1, *facts(name).tensor_sizes)
    ]
    by_rank = in_world(size, _counted, cases)
    for number, (name, axes) in enumerate(cases):
        model = facts(name)
        shape = MeshShape(**axes)
        expected = volume(model, shape, batch_size=SAMPLES).total
        sent = [counted[number][0] for counted in by_rank]
        # FSDP fills up the root's parameters, and the slices of a layer that the tensor axis divided, by themselves.
        tolerance = 0.03 if shape.fsdp > 1 else 1e-9
        assert sent == pytest.approx([expected] * size, rel=tolerance), (name, axes)
        held = [counted[number][1] for counted in by_rank]
        assert sum(held) / size == pytest.approx(held_parameters(model, shape) / shape.fsdp), (name, axes)
        needed = memory(model, shape, batch_size=SAMPLES, micro_batches=1, optimizer_tensors=0).gradients / 4
        gradients = [counted[number][2] for counted in by_rank]
        assert sum(gradients) / size == pytest.approx(needed), (name, axes)
