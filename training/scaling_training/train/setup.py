"""Everything that a run is made of, built from the spec before the first step."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from scaling_api.spec import ScalingJobSpec, TrainingSpec
from scaling_training.code import install
from scaling_training.data import Dataset, open_dataset
from scaling_training.data.batches import Batch
from scaling_training.data.feed import Feed
from scaling_training.data.order import DataOrder
from scaling_training.evaluate.metrics import Objective
from scaling_training.models.job import job_task
from scaling_training.models.pooling import steady_pooling
from scaling_training.models.precision import precision
from scaling_training.models.task import Task
from scaling_training.models.user import check_task
from scaling_training.optim import build_optimizer, global_batch_size
from scaling_training.optim.ema import Ema
from scaling_training.optim.loss_scale import LossScale
from scaling_training.parallel import Mesh
from scaling_training.parallel.blocks import watching_blocks
from scaling_training.parallel.mesh import Layout
from scaling_training.parallel.parallelize import alone, parallelize
from scaling_training.parallel.replica import Replica
from scaling_training.train import preload
from scaling_training.train.compilation import Compilation, check_compiler
from scaling_training.train.contained import CUBLAS
from scaling_training.train.early_stopping import objective_of
from scaling_training.update.elastic import effective_batch
from scaling_training.update.meetings import Meetings, meetings_of
from scaling_training.update.modes import update_mode
from scaling_training.world import World

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Setup:
    """The parts of a run that do not change while it runs."""

    spec: ScalingJobSpec
    world: World
    mesh: Mesh
    dataset: Dataset
    order: DataOrder
    micro_batches: int  # that each process divides its share of a batch into
    layout: Layout | None  # what parallelism.auto chose of it
    training: Feed
    validation: Feed
    task: Task
    replica: Replica
    compilation: Compilation | None
    parameters: tuple[torch.nn.Parameter, ...]
    optimizer: torch.optim.Optimizer
    meetings: Meetings
    loss_scale: LossScale
    ema: Ema | None
    objective: Objective


def set_up(spec: ScalingJobSpec, world: World, *, earlier: Callable[[], Layout | None] = lambda: None) -> Setup:
    """Load the data, build model and optimizer; UserError for what the user must mend. A collective operation.

    With parallelism.auto the layout is the ``earlier`` one, of as many processes, of the checkpoint that training goes
    on from: measured again, another one may look best, and its sums are others in the last bits.
    """
    preload.begin(preload.OPTIMIZER_MODULES)
    training = spec.training
    install(spec.code)
    dataset = open_dataset(spec.dataset)
    feed = functools.partial(dataset.feed, device=world.device, seed=training.seed)
    training_feed, validation_feed = feed(dataset.train, training=True), feed(dataset.validation)
    batch_size = global_batch_size(training, len(training_feed))
    preload.wait(preload.OPTIMIZER_MODULES)
    _choose_kernels(training, world.device)
    # Before the model, so that a mesh which does not fit is refused at once; one that is chosen needs the model.
    fixed = not training.parallelism.auto
    mesh = Mesh.of(training.parallelism, world, batch_size=batch_size) if fixed else None
    task = job_task(spec, dataset, device=world.device)
    if training.deterministic:
        steady_pooling(task.model)
    if spec.model.factory is not None:
        sample = validation_feed.get(0, np.arange(2))
        names = dataset.class_names
        kind, outputs = dataset.kind, dataset.outputs
        with watching_blocks(task.model):
            check_task(task, sample, classes=outputs, kind=kind, class_names=names, field="model.factory")

    around = precision(training, world.device)
    layout = None
    if mesh is None:
        layout = earlier()
        if layout is None:
            layout = _choose(spec, world, task, training_feed, batch_size=batch_size, around=around)
        elif world.is_first:
            log.info("parallelism: %s workers as %s, as in the checkpoint.", world.size, layout.shape)
        mesh = Mesh.laid(layout.shape, world)
    pieces = layout.micro_batches if layout is not None else 1
    if update_mode(spec).averages_gradients:
        replica = parallelize(task, mesh, spec=spec, around=around)
    else:
        replica = alone(task, spec=spec, around=around)
    compilation = Compilation(replica.model) if training.compile else None
    parameters = tuple(replica.model.parameters())
    optimizer = build_optimizer(training.optimizer, parameters)
    return Setup(
        spec=spec,
        world=world,
        mesh=mesh,
        dataset=dataset,
        order=dataset.order(
            seed=training.seed,
            batch_size=effective_batch(training.elastic, batch_size=batch_size, workers=mesh.batch_ranks),
        ),
        micro_batches=pieces * training.accumulation * -(-batch_size // training.batch_size),
        layout=layout,
        training=training_feed,
        validation=validation_feed,
        task=task,
        replica=replica,
        compilation=compilation,
        parameters=parameters,
        optimizer=optimizer,
        meetings=meetings_of(spec, world, replica.model, optimizer),
        loss_scale=LossScale.of(training.precision),
        ema=Ema(replica.model, training.ema.decay) if training.ema is not None else None,
        objective=objective_of(training.early_stopping, task.tally(world.device).objective),
    )


def _choose(
    spec: ScalingJobSpec,
    world: World,
    task: Task,
    feed: Feed,
    *,
    batch_size: int,
    around: Callable[[Batch], AbstractContextManager[object]],
) -> Layout:
    """What parallelism.auto finds best for these workers."""
    from scaling_training.parallel.auto import choose_mesh

    def batch_of(samples: int) -> Batch:
        return feed.get(0, np.arange(samples) % len(feed))

    choice = choose_mesh(task, world, spec=spec, batch_of=batch_of, batch_size=batch_size, around=around)
    if world.is_first:
        log.info("parallelism: %s", " ".join(choice.explanation))
    return Layout(choice.chosen.shape, choice.chosen.micro_batches)


def _choose_kernels(training: TrainingSpec, device: torch.device) -> None:
    """Settings of the whole process; `contained` puts them back after the fit.

    They import parts of torch's compiler, so nobody else may be at that any more.
    """
    if training.deterministic:
        # Read when cuBLAS is first used; without it torch refuses its matrix products.
        os.environ.setdefault(CUBLAS, ":4096:8")
        torch.use_deterministic_algorithms(True)
    if training.compile:
        check_compiler(device.type)
