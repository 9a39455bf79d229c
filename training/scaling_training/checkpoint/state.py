"""What a checkpoint holds, and putting it back.

Tensors, in `scaling_training.checkpoint.tensors`: ``model/<name>`` the weights and buffers, ``optimizer/<name of
the parameter>/<entry>`` the optimizer's state, ``ema/<name>`` the averaged weights, ``outer/<name>`` the outer
optimizer's state. ``position.json`` says how far training is, with the learning rates of the last step, and
``history.jsonl`` holds the rows of the curves. Data order and augmentation follow from the position, an optimizer's
other settings follow from the spec, and nothing else is random: none of that is stored.

Torch's own get_optimizer_state_dict is not used: on a fresh optimizer it takes a step to find out what state there
will be, while a checkpoint says so itself. Here a tensor of a parameter's shape is laid out like the parameter,
on any mesh, and any other is the same in every process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from scaling_training.checkpoint.catalog import LoadedCheckpoint
from scaling_training.checkpoint.nesting import flat, nested
from scaling_training.errors import UserError

HISTORY = "history.jsonl"
POSITION = "position.json"

MODEL, OPTIMIZER, EMA, OUTER = "model", "optimizer", "ema", "outer"
_SEPARATOR = "/"  # between what a tensor belongs to and its path there
# What torch.compile puts before the names of a module that it wraps.
_COMPILED = "_orig_mod."


class HasState(Protocol):
    """What is kept besides model and optimizer, the averaged weights for one: tensors and numbers by name."""

    def state_dict(self) -> dict[str, Any]:
        """The state; tensors in it are the live ones."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """The inverse of `state_dict`."""


@dataclass(slots=True)
class Position:
    """How far a run is, with what it counted on the way. Mutable: the loop moves it."""

    cursor: int = 0  # samples consumed by all processes since the run began
    step: int = 0  # optimizer steps done
    epoch_loss_sum: float = 0.0  # over the samples of the epoch under way
    epoch_skipped: int = 0  # of those samples, how many could not be read and were replaced
    seconds: float = 0.0  # spent training
    best_metrics: dict[str, float] = field(default_factory=dict)  # of the best checkpoint; empty before there is one
    loss_scale: dict[str, float] = field(default_factory=dict)  # LossScale.state(); empty but for fp16
    update: dict[str, Any] = field(default_factory=dict)  # what the mode of update keeps, as JSON values
    layout: dict[str, Any] = field(default_factory=dict)  # Layout.to_dict(); empty unless parallelism.auto chose it


@dataclass(frozen=True, slots=True)
class Trained:
    """What training changes. Parameters and state are plain tensors or DTensors.

    ``is_part``: this process holds some modules of the model only, under their names in the whole model, as a stage
    of a pipeline does.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: HasState | None = None
    is_part: bool = False
    outer: HasState | None = None  # of an update mode: what it keeps from one meeting of the processes to the next

    @property
    def is_sharded(self) -> bool:
        """Whether the processes hold different parts of it."""
        from torch.distributed.tensor import DTensor

        return self.is_part or any(isinstance(tensor, DTensor) for tensor in self.model.state_dict().values())

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it by name; the tensors are the live ones."""
        found = {f"{MODEL}/{name}": tensor for name, tensor in _weights(self.model).items()}
        for name, parameter in _parameters(self.model).items():
            for entry, value in self.optimizer.state.get(parameter, {}).items():
                if value is None:
                    continue
                if not isinstance(value, torch.Tensor):
                    raise TypeError(f"the optimizer keeps {entry} as a {type(value).__name__}; only tensors are saved")
                found[f"{OPTIMIZER}/{name}/{entry}"] = value
        for kind, holder in self._holders():
            found |= {
                f"{kind}/{name}": _as_tensor(value) for name, value in flat(holder.state_dict(), _SEPARATOR).items()
            }
        return found

    def _holders(self) -> list[tuple[str, HasState]]:
        return [(kind, holder) for kind, holder in ((EMA, self.ema), (OUTER, self.outer)) if holder is not None]

    def position_file(self, position: Position) -> bytes:
        """As JSON, exactly: Python writes a float so that reading gives the same one."""
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        return json.dumps({"position": asdict(position), "learningRates": rates}).encode()

    def load(self, checkpoint: LoadedCheckpoint) -> Position:
        """Put it into the state that was saved; every process must call it. Returns where that was.

        UserError when the checkpoint is another model's, DamagedError when a file is not as it should be.
        """
        # Imported late: it imports parts of torch that another thread imports while a process starts.
        from scaling_training.checkpoint.tensors import ShardReader, load, shapes

        reader = ShardReader(checkpoint.read)
        saved = shapes(reader)
        targets = {f"{MODEL}/{name}": tensor for name, tensor in _weights(self.model).items()}
        self._check_fit(MODEL, targets, saved)
        parameters = _parameters(self.model)
        state: dict[str, dict[str, torch.Tensor]] = {}
        for name, (shape, dtype) in saved.items():
            kind, _, rest = name.partition("/")
            if kind == OPTIMIZER:
                of, _, entry = rest.rpartition("/")
                if self.is_part and of not in parameters:
                    continue
                value = _laid_out_like(parameters.get(of), shape, dtype, of)
                state.setdefault(of, {})[entry] = targets[name] = value
        held: dict[str, dict[str, Any]] = {}
        for kind, holder in self._holders():
            if any(name.startswith(f"{kind}/") for name in saved):
                held[kind] = flat(holder.state_dict(), _SEPARATOR)
                wanted = {f"{kind}/{name}": _as_tensor(value) for name, value in held[kind].items()}
                self._check_fit(kind, wanted, saved)
                targets |= wanted
        with torch.no_grad():
            load(targets, reader)
        _put_back(self.optimizer, parameters, state)
        for kind, holder in self._holders():
            loaded = {
                name: targets[f"{kind}/{name}"] if isinstance(value, torch.Tensor) else targets[f"{kind}/{name}"].item()
                for name, value in held.get(kind, {}).items()
            }
            # The outer optimizer starts from the weights, whether it keeps something itself or not.
            if loaded or kind == OUTER:
                holder.load_state_dict(nested(loaded, _SEPARATOR))
        saved_position = json.loads(checkpoint.read(POSITION))
        for group, rate in zip(self.optimizer.param_groups, saved_position["learningRates"], strict=False):
            group["lr"] = rate
        return Position(**saved_position["position"])

    def _check_fit(
        self, kind: str, targets: Mapping[str, torch.Tensor], saved: Mapping[str, tuple[torch.Size, torch.dtype]]
    ) -> None:
        names = {name for name in targets if name.startswith(f"{kind}/")}
        others = set() if self.is_part else {name for name in saved if name.startswith(f"{kind}/")}
        for name in sorted(names | others):
            bare = name.partition("/")[2]
            if name not in saved:
                raise UserError(f"the checkpoint's weights do not fit spec.model: {bare} is not among them")
            if name not in targets:
                raise UserError(f"the checkpoint's weights do not fit spec.model, which has no {bare}")
            shape = saved[name][0]
            if targets[name].shape != shape:
                raise UserError(
                    f"the checkpoint's weights do not fit spec.model: {bare} has shape {list(shape)} there "
                    f"and {list(targets[name].shape)} here"
                )


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name.replace(_COMPILED, ""): tensor.detach() for name, tensor in model.state_dict().items()}


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name.replace(_COMPILED, ""): parameter for name, parameter in model.named_parameters()}


def _laid_out_like(parameter: nn.Parameter | None, shape: torch.Size, dtype: torch.dtype, name: str) -> torch.Tensor:
    if parameter is None:
        raise UserError(f"the checkpoint's optimizer state does not fit spec.model, which has no {name}")
    if shape == parameter.shape:
        return torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
    return torch.zeros(shape, dtype=dtype)


def _put_back(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    state: Mapping[str, Mapping[str, torch.Tensor]],
) -> None:
    """Through the optimizer's own load_state_dict, which puts each tensor where the optimizer wants it."""
    names = {parameter: name for name, parameter in parameters.items()}
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    by_index = {
        index: dict(state[names[parameter]])
        for index, parameter in enumerate(ordered)
        if parameter in names and names[parameter] in state
    }
    optimizer.load_state_dict({"state": by_index, "param_groups": optimizer.state_dict()["param_groups"]})


def _as_tensor(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach()
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)
