"""Which layers are frozen in which epoch.

A stage names layers and for how many first epochs they stay as they are; a parameter is frozen while any stage
says so. Two stages make a staged unfreezing: the backbone until epoch 2 and features.0 until epoch 4 trains the
head alone, then all but features.0, then everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from scaling_api.spec import FreezeSpec
from scaling_training.errors import UserError
from scaling_training.models.task import Task

_BACKBONE = "backbone"
# What torch.compile and activation checkpointing put into the names of the modules that they wrap.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")


def frozen_at(stages: Sequence[FreezeSpec], epoch: int, *, head: str) -> Callable[[str], bool]:
    """Whether a parameter, by its name, is frozen in this epoch (0-based). ``head`` is the task's."""
    layers = [stage.layers for stage in stages if stage.until_epoch is None or epoch < stage.until_epoch]

    def frozen(name: str) -> bool:
        for wrapper in _WRAPPERS:
            name = name.replace(wrapper, "")
        return any(not _below(head, name) if layer == _BACKBONE else _below(layer, name) for layer in layers)

    return frozen


def changes_at(stages: Sequence[FreezeSpec], epoch: int) -> bool:
    """Whether what is frozen in this epoch may differ from the epoch before. For epoch 0: whether anything is."""
    return bool(stages) if epoch == 0 else any(stage.until_epoch == epoch for stage in stages)


def apply_freeze(task: Task, stages: Sequence[FreezeSpec], epoch: int) -> None:
    """Freeze and unfreeze the task's parameters for this epoch; call it again after every ``model.train()``.

    Frozen batch norm goes into evaluation mode: it normalises by its running statistics and does not move
    them. The gradients of what is frozen are dropped, so that optimizers leave it alone.
    """
    if not stages:
        return
    frozen = frozen_at(stages, epoch, head=head_of(task))
    for name, parameter in task.model.named_parameters():
        parameter.requires_grad_(not frozen(name))
        if frozen(name):
            parameter.grad = None
    for name, module in task.model.named_modules():
        if getattr(module, "running_mean", None) is not None:
            module.train(task.model.training and not frozen(f"{name}.weight"))


def check_freeze(stages: Sequence[FreezeSpec], names: Iterable[str], *, head: str) -> None:
    """UserError for layers that the model has not, a backbone of unknown extent, and an epoch that trains nothing."""
    names = list(names)
    for index, stage in enumerate(stages):
        field = f"model.freeze[{index}].layers {stage.layers}"
        if stage.layers == _BACKBONE:
            if not head:
                raise UserError(f"{field}: the factory's task does not say what its head is; name the layers")
        elif not any(_below(stage.layers, name) for name in names):
            known = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
            raise UserError(f"{field}: the model has no parameters of this name; its outermost layers are {known}")
    starts = {0, *(stage.until_epoch for stage in stages if stage.until_epoch is not None)}
    for epoch in sorted(starts):
        if all(map(frozen_at(stages, epoch, head=head), names)):
            raise UserError(f"model.freeze: nothing is left to train in epoch {epoch + 1}; freeze fewer layers")


def head_of(task: Task) -> str:
    """The name of the task's head; empty when it does not say."""
    return str(getattr(task, "head", ""))


def _below(layer: str, name: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")
