"""The table of update rules, and building one for a model's parameters.

Each rule runs the fastest kernel that torch has for the tensors at hand: fused (one pass over each tensor, on
CPU as on GPU), else foreach (one call for all tensors). Neither takes plain tensors together with DTensors,
or DTensors of two meshes, so each kind is a parameter group of its own; and of the fused kernels only Adam's
and AdamW's know DTensors (torch 2.15).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scaling_api.spec import OptimizerSpec, TrainingSpec
from scaling_training.registry import lookup, table

if TYPE_CHECKING:
    import torch

    Parameters = Iterable[torch.nn.Parameter]
    Groups = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class OptimizerRecord:
    """An update rule by name."""

    name: str
    description: str
    build: Callable[[OptimizerSpec, Groups], torch.optim.Optimizer] = field(repr=False)
    # Whether torch has a fused kernel for plain tensors, and one that takes DTensors.
    fused: bool = False
    fused_sharded: bool = False
    # Whether parameters of one dimension are a group of their own, without decay and adaptation.
    layer_wise: bool = False
    # Whether each step takes the whole training split.
    full_batch: bool = False


def _gradient_descent(spec: OptimizerSpec, groups: Groups) -> torch.optim.Optimizer:
    from torch.optim import SGD

    return SGD(groups, lr=spec.learning_rate, weight_decay=spec.weight_decay)


def _sgd(spec: OptimizerSpec, groups: Groups) -> torch.optim.Optimizer:
    from torch.optim import SGD

    optimizer = SGD(
        groups,
        lr=spec.learning_rate,
        momentum=spec.momentum or 0.0,
        nesterov=bool(spec.nesterov),
        weight_decay=spec.weight_decay,
    )
    if spec.momentum:
        optimizer.register_step_pre_hook(_begin_momentum)
    return optimizer


def _begin_momentum(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Give a parameter that takes its first step a momentum of 0.

    The fused kernel cannot begin some momentums while it goes on with others, as when layers are unfrozen (torch 2.15).
    """
    import torch

    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter] if parameter.grad is not None else None
            if state is not None and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)


def _adagrad(spec: OptimizerSpec, groups: Groups) -> torch.optim.Optimizer:
    from torch.optim import Adagrad

    return Adagrad(groups, lr=spec.learning_rate, eps=_or(spec.epsilon, 1e-10), weight_decay=spec.weight_decay)


def _rmsprop(spec: OptimizerSpec, groups: Groups) -> torch.optim.Optimizer:
    from torch.optim import RMSprop

    return RMSprop(
        groups,
        lr=spec.learning_rate,
        alpha=_or(spec.beta2, 0.99),
        eps=_or(spec.epsilon, 1e-8),
        momentum=spec.momentum or 0.0,
        weight_decay=spec.weight_decay,
    )


def _adam(spec: OptimizerSpec, groups: Groups) -> torch.optim.Optimizer:
    from torch.optim import Adam

    return Adam(
        groups,
        lr=spec.learning_rate,
        betas=_betas(spec),
        eps=_or(spec.epsilon, 1e-8),
        weight_decay=spec.weight_decay,
    )


def _adamw(spec: OptimizerSpec, groups: Groups) -> torch.optim.Optimizer:
    from torch.optim import AdamW

    return AdamW(
        groups,
        lr=spec.learning_rate,
        betas=_betas(spec),
        eps=_or(spec.epsilon, 1e-8),
        weight_decay=spec.weight_decay,
    )


def _lars(spec: OptimizerSpec, groups: Groups) -> torch.optim.Optimizer:
    from scaling_training.optim.lars import Lars

    return Lars(
        groups,
        lr=spec.learning_rate,
        momentum=_or(spec.momentum, 0.9),
        weight_decay=spec.weight_decay,
        trust_coefficient=_or(spec.trust_coefficient, 1e-3),
    )


def _lamb(spec: OptimizerSpec, groups: Groups) -> torch.optim.Optimizer:
    from scaling_training.optim.lamb import Lamb

    return Lamb(
        groups,
        lr=spec.learning_rate,
        betas=_betas(spec),
        eps=_or(spec.epsilon, 1e-6),
        weight_decay=spec.weight_decay,
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _betas(spec: OptimizerSpec) -> tuple[float, float]:
    return _or(spec.beta1, 0.9), _or(spec.beta2, 0.999)


OPTIMIZERS: Mapping[str, OptimizerRecord] = table(
    OptimizerRecord(
        "gradient-descent",
        "w -= rate * gradient of the mean loss over the whole training split",
        _gradient_descent,
        fused=True,
        full_batch=True,
    ),
    OptimizerRecord("sgd", "w -= rate * (momentum-averaged) gradient; Nesterov's look-ahead", _sgd, fused=True),
    OptimizerRecord(
        "adagrad",
        "Adagrad (Duchi et al. 2011): each weight's rate falls with the sum of its squared gradients",
        _adagrad,
        fused=True,
    ),
    OptimizerRecord("rmsprop", "RMSprop (Tieleman and Hinton 2012): a moving average in place of the sum", _rmsprop),
    OptimizerRecord(
        "adam",
        "Adam (Kingma and Ba 2015); weightDecay is added to the gradient",
        _adam,
        fused=True,
        fused_sharded=True,
    ),
    OptimizerRecord(
        "adamw",
        "AdamW (Loshchilov and Hutter 2019); weightDecay shrinks the weights directly",
        _adamw,
        fused=True,
        fused_sharded=True,
    ),
    OptimizerRecord("lars", "LARS (You et al. 2017): SGD with a rate for each layer", _lars, layer_wise=True),
    OptimizerRecord("lamb", "LAMB (You et al. 2020): Adam with a rate for each layer", _lamb, layer_wise=True),
)


def build_optimizer(spec: OptimizerSpec, parameters: Parameters) -> torch.optim.Optimizer:
    """The optimizer over these parameters, plain tensors and DTensors of any meshes.

    Its rate is set anew at each step by the schedule, for all groups alike. Its state is laid out like the
    parameters. A state of another layout can be loaded: the choice of kernels is not taken from it.
    """
    record = lookup(OPTIMIZERS, spec.name, field="training.optimizer.name")
    groups = _groups(record, parameters, exclude=spec.exclude_biases is not False)
    kernels: Groups = [{key: value for key, value in group.items() if key != "params"} for group in groups]
    optimizer = record.build(spec, groups)

    def choose_kernels(loaded: torch.optim.Optimizer) -> None:
        for group, kernel in zip(loaded.param_groups, kernels, strict=True):
            group.update(kernel)

    optimizer.register_load_state_dict_post_hook(choose_kernels)
    return optimizer


def _groups(record: OptimizerRecord, parameters: Parameters, *, exclude: bool) -> Groups:
    from scaling_training.optim.tensors import mesh_of

    # A dict keeps the order of first appearance, which is the same on all processes.
    found: dict[tuple[Hashable, bool], list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        excluded = record.layer_wise and exclude and parameter.ndim <= 1
        # The layer-wise rules take tensors of all kinds together: fewer groups, fewer collectives.
        mesh = None if record.layer_wise else mesh_of(parameter)
        found.setdefault((mesh, excluded), []).append(parameter)
    groups: Groups = []
    for (mesh, excluded), members in found.items():
        if record.layer_wise:
            groups.append({"params": members, "adapt": not excluded})
        else:
            fused = record.fused_sharded if mesh is not None else record.fused
            # Both said, so that neither is left from a state that is loaded.
            groups.append({"params": members, "fused": fused, "foreach": not fused})
    return groups


def global_batch_size(training: TrainingSpec, samples: int) -> int:
    """Samples per optimizer step: batchSize, or all ``samples`` of the training split for gradient-descent.

    For the latter batchSize is only how many are computed at once; their gradients are added up.
    """
    record = lookup(OPTIMIZERS, training.optimizer.name, field="training.optimizer.name")
    return samples if record.full_batch else training.batch_size
