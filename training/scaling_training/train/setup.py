"""Everything that a run is made of, built from the spec before the first step."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import nn

from scaling_api.spec import ScalingJobSpec
from scaling_training.data import Dataset, open_dataset
from scaling_training.data.feed import Feed
from scaling_training.data.order import DataOrder
from scaling_training.models import build_task
from scaling_training.models.task import Task
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
    training: Feed
    validation: Feed
    task: Task
    optimizer: torch.optim.Optimizer

    @property
    def total_steps(self) -> int:
        """Optimizer steps from the first epoch to the last."""
        return self.order.steps_per_epoch * self.spec.training.epochs


def set_up(spec: ScalingJobSpec, world: World) -> Setup:
    """Load the data, build model and optimizer; UserError for what the user must mend."""
    preload.begin(preload.OPTIMIZER_MODULES)
    training = spec.training
    dataset = open_dataset(spec.dataset)
    feed = functools.partial(dataset.feed, device=world.device, seed=training.seed)
    training_feed, validation_feed = feed(dataset.train, training=True), feed(dataset.validation)
    preload.wait(preload.OPTIMIZER_MODULES)
    task = build_task(spec.model, input_shape=dataset.input_shape, classes=len(dataset.class_names), seed=training.seed)
    task.model.to(world.device).train()
    return Setup(
        spec=spec,
        world=world,
        dataset=dataset,
        order=dataset.order(seed=training.seed, batch_size=training.batch_size),
        training=training_feed,
        validation=validation_feed,
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
    from torch.nn.parallel import DistributedDataParallel

    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, forward_sync_buffers=False, gradient_as_bucket_view=True)
