"""What can be known of a training before its processes start: whether mesh, data, model and weights fit together.

The driver asks, because a mistake that it finds costs nobody a cluster. A model by name is built without memory, on
torch's meta device; a factory is called as it will be for the evaluation, which runs in the same process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from scaling_api.metrics import CLASSIFICATION, MULTI_LABEL, REGRESSION, TOP_K
from scaling_api.spec import ModelSpec, ScalingJobSpec
from scaling_training.data import Dataset
from scaling_training.data.targets import Kind
from scaling_training.errors import UserError
from scaling_training.optim import global_batch_size
from scaling_training.parallel import Mesh
from scaling_training.parallel.mesh import MeshShape, mesh_shape
from scaling_training.train.early_stopping import objective_of

if TYPE_CHECKING:
    import torch

    from scaling_training.evaluate.metrics import Objective
    from scaling_training.models.task import Task

Note = Callable[[str], None]

_METRICS: Mapping[Kind, Mapping[str, str]] = {
    "classes": CLASSIFICATION,
    "labels": MULTI_LABEL,
    "numbers": REGRESSION,
}

# Take any images and any width. Torch, which takes seconds to import, has nothing to say about them.
_ALWAYS_FIT = ("small-cnn", "mnist-cnn")


def check_training(spec: ScalingJobSpec, dataset: Dataset, note: Note) -> None:
    """UserError for what the training processes would refuse as they start, or would fail at in their first step.

    ``note`` is told what becomes of the weights that training starts from.
    """
    if spec.model.factory is None:
        _check_targets(spec, dataset)
    parallelism = spec.training.parallelism
    if parallelism.workers is not None:
        mesh_shape(
            parallelism, parallelism.workers, batch_size=global_batch_size(spec.training, len(dataset.train.labels))
        )
    if parallelism.tensor > 1 or parallelism.pipeline > 1 or not _always_fits(spec.model):
        _check_model(spec, dataset, note)


def _check_targets(spec: ScalingJobSpec, dataset: Dataset) -> None:
    """A model by name is trained as the kind of the targets has it."""
    training, stopping = spec.training, spec.training.early_stopping
    if dataset.kind != "classes" and training.label_smoothing:
        raise UserError(
            f"training.labelSmoothing is for classes, and the data set's targets are {dataset.kind}; remove it"
        )
    # Of few classes the five best are nearly all.
    names = [name for name in _METRICS[dataset.kind] if name != "top5Accuracy" or dataset.outputs > TOP_K]
    if stopping is not None and stopping.metric not in (None, *names):
        raise UserError(
            f"training.earlyStopping.metric {stopping.metric} is none of this data set, whose targets are "
            f"{dataset.kind}; write {', '.join(names[:-1])} or {names[-1]}"
        )


def _always_fits(model: ModelSpec) -> bool:
    changed = model.weights is not None or model.freeze or model.dropout is not None
    return model.name in _ALWAYS_FIT and not changed


def _check_model(spec: ScalingJobSpec, dataset: Dataset, note: Note) -> None:
    import torch

    from scaling_training.data.batches import Batch
    from scaling_training.data.reading import spread
    from scaling_training.models.user import check_task
    from scaling_training.parallel.parallelize import check_model

    task, device = _task(spec, dataset, note)
    if spec.model.factory is None:
        # Of the right kind and shape; no class has another cost than the first.
        targets = torch.zeros_like(torch.from_numpy(dataset.train.targets[:2]), device=device)
        keys = torch.zeros(len(targets), dtype=torch.int64, device=device)
        sample = Batch(torch.zeros(len(targets), *dataset.input_shape, device=device), targets, keys)
        field = f"model.name {spec.model.name}"
    else:
        feed = dataset.feed(dataset.validation, device=device, seed=spec.training.seed)
        # Some that lie far apart: files come class by class.
        sample, field = feed.get(0, spread(len(dataset.validation), 2)), "model.factory"
    modules = [spec.model.factory] if spec.model.factory is not None else []
    measured = check_task(
        task,
        sample,
        classes=dataset.outputs,
        kind=dataset.kind,
        class_names=dataset.class_names,
        field=field,
        modules=modules,
    )
    _check_objective(spec, task.tally(torch.device("cpu")).objective, measured)
    axes = spec.training.parallelism
    shape = MeshShape(pipeline=axes.pipeline, fsdp=axes.fsdp, tensor=axes.tensor)
    check_model(task.model, Mesh(shape, rank=0), name=spec.model.title)


def _check_objective(spec: ScalingJobSpec, own: Objective, measured: frozenset[str] | None) -> None:
    """``measured`` are the metrics of a task of the user's own, None where the library knows them."""
    metric = objective_of(spec.training.early_stopping, own).metric
    if measured is not None and metric not in measured:
        raise UserError(
            f"training.earlyStopping.metric {metric} is not a metric of the task; there are "
            f"{', '.join(sorted(measured))}"
        )


def _task(spec: ScalingJobSpec, dataset: Dataset, note: Note) -> tuple[Task, torch.device]:
    import torch

    from scaling_training.models.job import job_task

    cpu = torch.device("cpu")
    if spec.model.factory is not None:
        return job_task(spec, dataset, device=cpu, note=note), cpu
    meta = torch.device("meta")
    try:
        with meta:
            return job_task(spec, dataset, device=meta, note=note), meta
    except NotImplementedError:
        # An architecture (RegNet, for one) that looks at numbers while it is built.
        return job_task(spec, dataset, device=cpu, note=note), cpu
