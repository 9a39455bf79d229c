"""Everything that a run is made of, built from the spec before the first step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from scaling_api.spec import ScalingJobSpec
from scaling_training.data import Dataset, open_dataset
from scaling_training.data.augment import AffineAugmentation, is_identity
from scaling_training.data.batches import Batches, Normalisation
from scaling_training.data.order import DataOrder
from scaling_training.models import build_task
from scaling_training.models.task import ClassificationTask
from scaling_training.optim import build_optimizer
from scaling_training.train import preload
from scaling_training.train.types import World


@dataclass(frozen=True, slots=True)
class Setup:
    """The parts of a run that do not change while it runs."""

    spec: ScalingJobSpec
    world: World
    dataset: Dataset
    order: DataOrder
    training: Batches
    validation: Batches
    task: ClassificationTask
    optimizer: torch.optim.Optimizer

    @property
    def total_steps(self) -> int:
        """Optimizer steps from the first epoch to the last."""
        return self.order.steps_per_epoch * self.spec.training.epochs


def set_up(spec: ScalingJobSpec, world: World) -> Setup:
    """Load the data, build model and optimizer; UserError for what the user must mend."""
    preload.begin(preload.OPTIMIZER_MODULES)
    training = spec.training
    dataset = open_dataset(spec.dataset.name)
    samples = len(dataset.train)
    augmentation = spec.dataset.augmentation
    changes = (
        None if is_identity(augmentation) else AffineAugmentation(augmentation, seed=training.seed, samples=samples)
    )
    normalisation = Normalisation.of(dataset.train)
    preload.wait(preload.OPTIMIZER_MODULES)
    task = build_task(spec.model, input_shape=dataset.input_shape, classes=len(dataset.class_names), seed=training.seed)
    task.model.to(world.device).train()
    return Setup(
        spec=spec,
        world=world,
        dataset=dataset,
        order=DataOrder(seed=training.seed, samples=samples, batch_size=training.batch_size),
        training=Batches(dataset.train, normalisation=normalisation, device=world.device, augmentation=changes),
        validation=Batches(dataset.validation, normalisation=normalisation, device=world.device),
        task=task,
        optimizer=build_optimizer(training.optimizer, task.model.parameters()),
    )


def replicate(model: nn.Module, world: World) -> nn.Module:
    """The model whose backward pass averages gradients over the ranks; the model itself in a world of one.

    Buffers are not broadcast at each step: batch norm's running statistics take no part in training, so
    rank 0's, which validation and checkpoints use, are sent round only before a validation. Batch norm
    itself is local: each rank normalises by the statistics of its own share of the batch.
    """
    if world.size == 1:
        return model
    devices = [world.device] if world.device.type == "cuda" else None
    return _fixed_buckets()(model, device_ids=devices, forward_sync_buffers=False, gradient_as_bucket_view=True)


@cache
def _fixed_buckets() -> type[nn.Module]:
    from torch.nn.parallel import DistributedDataParallel

    class FixedBuckets(DistributedDataParallel):
        """DDP whose buckets are the same from the first step on.

        DDP sums gradients in buckets, which it lays out anew after its first backward pass, in the order in which
        gradients came. The order of a sum depends on the layout, and a resumed run has its first pass at another
        step than the straight one: from three ranks on, their weights would differ in the last bit. Here the one
        rebuild happens at once, over the parameters in reverse, which is the order that gradients come in but for
        neighbours: no cost per step, and the sums still travel while the backward pass goes on.
        """

        def __init__(self, module: nn.Module, **settings: Any) -> None:
            super().__init__(module, **settings)
            self.reducer._push_all_rebuilt_params()
            assert self.reducer._rebuild_buckets(), "DDP would lay its buckets out anew after the first step"

        def _build_params_for_reducer(self) -> tuple[list[nn.Parameter], list[bool]]:
            parameters, sparse = super()._build_params_for_reducer()  # type: ignore[no-untyped-call]
            return parameters[::-1], sparse[::-1]

    return FixedBuckets
