"""Tasks from the user's own code: calling the factory, and looking closely at what it returns."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from scaling_api.spec import ModelSpec
from scaling_training.data.batches import Batch
from scaling_training.data.targets import FORMS, Kind
from scaling_training.errors import UserError
from scaling_training.factory import call, resolve, told
from scaling_training.models.dropout import keyed
from scaling_training.models.own_task import check_sum, check_tally
from scaling_training.models.task import METHODS, ClassificationTask, MultiLabelTask, RegressionTask, Task

log = logging.getLogger("scaling_training.models")

_FIELD = "model.factory"
_KINDS: Mapping[Kind, type] = {"classes": ClassificationTask, "labels": MultiLabelTask, "numbers": RegressionTask}
_INSTEAD = "training.compile compiles a model, and training.parallelism divides the work"
_NEEDED = f"a task: an object with model (a torch.nn.Module) and the methods {' and '.join(METHODS)}"


def task_from(spec: ModelSpec, *, facts: Mapping[str, Any]) -> Task:
    """What the factory of ``spec`` returns for its arguments and for those of the facts that it has parameters for.

    UserError when there is no such function, when it raises, when it returns something else than a task, and
    when a setting that changes the loss would not reach it.
    """
    path = str(spec.factory)
    taken = _parameters(path)
    arguments = spec.arguments.model_dump() if spec.arguments is not None else {}
    for name, field in (("label_smoothing", "training.labelSmoothing"), ("class_weights", "class weights")):
        value = facts.get(name)
        matters = value != 0 if isinstance(value, float) else value is not None
        if matters and taken is not None and name not in taken:
            raise UserError(f"{field}: the function {path} (model.factory) has no parameter {name}; add it")
    given = {name: value for name, value in facts.items() if taken is None or name in taken}
    found = call(path, field=_FIELD, **{**given, **arguments})
    if isinstance(found, nn.Module) and not all(hasattr(found, name) for name in METHODS):
        raise UserError(
            f"{_FIELD} {path} returned a model ({type(found).__name__}), not {_NEEDED}; for classification return "
            "ClassificationTask(model, classes), for labels MultiLabelTask, for numbers RegressionTask"
        )
    missing = [name for name in METHODS if not callable(getattr(found, name, None))]
    if missing or not isinstance(getattr(found, "model", None), nn.Module):
        lacks = f" without {' and '.join(missing)}" if missing and hasattr(found, "model") else ""
        raise UserError(f"{_FIELD} {path} returned {_article(found)}{lacks}, and what is needed is {_NEEDED}")
    task: Task = _plain(found, path)
    return task


def _plain(task: Any, path: str) -> Any:
    """The task with its model out of what wraps it, here or further down.

    torch.compile and torch's data parallelism put a module around a module, so that the names of its weights are others
    than wherever the model is built without it. Compiling and dividing are settings of the training.
    """
    bare = _bare(task.model)
    for module in list(bare.modules()):
        for name, child in list(module.named_children()):
            if _bare(child) is not child:
                setattr(module, name, _bare(child))
                log.warning("%s %s: %s is taken without %s; %s", _FIELD, path, name, type(child).__name__, _INSTEAD)
    if bare is task.model:
        return task
    log.warning("%s %s: its model is taken without %s; %s", _FIELD, path, type(task.model).__name__, _INSTEAD)
    try:
        if dataclasses.is_dataclass(task) and not isinstance(task, type):
            return dataclasses.replace(task, model=bare)
        task.model = bare
    except (AttributeError, TypeError) as error:
        raise UserError(f"{_FIELD} {path} returned a {type(task.model).__name__}; return the model itself") from error
    return task


def _bare(module: nn.Module) -> nn.Module:
    while True:
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):  # torch.compile's
            module = inner
        else:
            return module


def check_task(
    task: Task,
    batch: Batch,
    *,
    classes: int,
    kind: Kind = "classes",
    class_names: Sequence[str] | None = None,
    field: str = "model",
    modules: Iterable[str] = (),
) -> frozenset[str] | None:
    """Run the task on a few real samples: once as an evaluation does, and once as a training step does.

    UserError when it cannot take them, when its output is not one score for each class, when its loss is not one
    number that is their sum, when no gradient comes back from that, or when its tally does not count them. The model is
    left as it was. ``classes``, ``kind`` and ``class_names`` are what the data set has of targets, ``field`` is the
    spec's field that the sentence blames, ``modules`` the user's own (see `factory.user_code`).

    Returns the names of the metrics of a tally of the user's own.
    """
    _check_kind(task, kind, field)
    _check_classes(task, classes, field)
    device, measured, modules = batch.inputs.device, None, list(modules)
    try:
        with _as_it_was(task.model, device):
            with torch.no_grad():
                output = task.model.eval()(*_inputs(task, batch, field))
                _check_scores(task, output, batch, classes, field, "in evaluation")
                loss = task.loss_sum(output, batch)
                _check_loss(loss, field)
                if device.type != "meta":
                    _check_finite(loss, batch, field)
                    check_sum(task, batch, loss, field, modules)
                    names = [str(number) for number in range(classes)] if class_names is None else class_names
                    measured = check_tally(task, output, batch, names, field, modules)
            if device.type != "meta":  # made from a name: the backward pass is torch's own
                _check_step(task, batch, classes, field)
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        shape = tuple(batch.inputs.shape[1:])
        raise UserError(
            f"{field}: the task cannot compute its loss on samples of the data set (shape {shape}, "
            f"{batch.inputs.dtype}): it {told(error, modules=modules)}"
        ) from error
    return measured


def _inputs(task: Task, batch: Batch, field: str) -> tuple[Any, ...]:
    inputs = task.inputs(batch)
    if not isinstance(inputs, (tuple, list)):
        raise UserError(
            f"{field}: inputs must return the model's arguments as a tuple, not {_article(inputs)}: write "
            "(batch.inputs,)"
        )
    return tuple(inputs)


def _check_loss(loss: object, field: str) -> None:
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        what = f"one of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else _article(loss)
        raise UserError(f"{field}: loss_sum must return a tensor of one element, not {what}")


def _check_finite(loss: torch.Tensor, batch: Batch, field: str) -> None:
    """What is wrong before the first step is no matter of learning rates. Inputs that are no numbers are the data's."""
    if not bool(loss.isfinite().all()) and bool(batch.inputs.isfinite().all()):
        raise UserError(
            f"{field}: the loss of the first samples is {loss.item()} before anything is trained: look in forward and "
            "loss_sum for a logarithm, a root or a division of 0, or for weights that are no numbers"
        )


def _check_step(task: Task, batch: Batch, classes: int, field: str) -> None:
    with keyed(task.model.train(), batch.keys):
        output = task.model(*task.inputs(batch))
    # Some models add outputs of inner layers, or a loss of their own, in training alone.
    _check_scores(task, output, batch, classes, field, "in training")
    loss = task.loss_sum(output, batch)
    _check_loss(loss, field)
    trained = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    if not trained:
        raise UserError(
            f"{field}: no weight of the model can be trained: it has none, or requires_grad is False for all; leave it "
            "True, and freeze layers by model.freeze"
        )
    if not loss.requires_grad:
        raise UserError(
            f"{field}: the loss depends on no weight of the model, so nothing can be trained: the output or the loss "
            "is detached, or computed under torch.no_grad"
        )
    try:
        # One gradient goes back through all the layers, and takes no memory for those of the others.
        torch.autograd.grad(loss, trained[0], allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise UserError(f"{field}: the task's loss cannot be taken back through the model: it {told(error)}") from error


@contextmanager
def _as_it_was(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Modes, buffers (the statistics of batch norm) and torch's random numbers are put back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


def _check_kind(task: Task, kind: Kind, field: str) -> None:
    """A task of this library goes with one kind of targets; one of the user's own knows what it does."""
    taken = next((taken for taken, made in _KINDS.items() if isinstance(task, made)), kind)
    if taken != kind:
        raise UserError(
            f"{field}: the task is a {type(task).__name__}, which learns {taken}, and the data set's targets are "
            f"{kind}; return a {_KINDS[kind].__name__}, or have the data set give {taken}: {FORMS}"
        )


def _check_classes(task: Task, classes: int, field: str) -> None:
    if isinstance(task, ClassificationTask) and task.classes != classes:
        raise UserError(
            f"{field}: ClassificationTask was made for {task.classes} classes, and the data set has {classes}; let the "
            "function have a parameter classes and hand it on"
        )


def _check_scores(task: Task, output: Any, batch: Batch, classes: int, field: str, when: str) -> None:
    if not isinstance(task, tuple(_KINDS.values())):
        return
    name, what = type(task).__name__, next(what for what, made in _KINDS.items() if isinstance(task, made))
    if not isinstance(output, torch.Tensor):
        raise UserError(
            f"{field}: {when} the output is {_article(output)}, and {name} takes the scores alone, a tensor "
            f"({len(batch)}, {classes}); return that, or a task of your own whose loss_sum reads all of it"
        )
    alone = what == "numbers" and classes == 1 and tuple(output.shape) == (len(batch),)
    if tuple(output.shape) != (len(batch), classes) and not alone:
        raise UserError(
            f"{field}: {when} the output for {len(batch)} samples has the shape {tuple(output.shape)}; the data set "
            f"has {classes} {what}, so it must be ({len(batch)}, {classes})"
        )
    if not output.is_floating_point():
        raise UserError(
            f"{field}: {when} the output is of {output.dtype}; it must be floating point: return it before any argmax "
            "or rounding"
        )


def _parameters(path: str) -> frozenset[str] | None:
    """The names of the function's parameters; None when it takes any."""
    try:
        parameters = inspect.signature(resolve(path, field=_FIELD)).parameters.values()
    except ValueError:  # a function of C tells nothing
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)


def _article(value: object) -> str:
    return "nothing" if value is None else f"an object of type {type(value).__name__}"
