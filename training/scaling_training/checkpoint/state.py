"""What a checkpoint's files hold, and putting it back.

``model.safetensors`` the weights and buffers; ``training.pt`` the optimizer's state and the position, plain
types and tensors that torch loads with weights_only=True, so that a file from elsewhere runs no code;
``history.jsonl`` the rows of the curves, which the loop adds. Learning rate, data order and augmentation follow
from the position, and nothing else is random, so no generator's state is stored.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from scaling_training.errors import UserError

MODEL = "model.safetensors"
TRAINING = "training.pt"
HISTORY = "history.jsonl"


@dataclass(slots=True)
class Position:
    """How far a run is, with what it counted on the way. Mutable: the loop moves it."""

    cursor: int = 0  # samples consumed by all processes since the run began
    step: int = 0  # optimizer steps done
    epoch_loss_sum: float = 0.0  # over the samples of the epoch under way
    seconds: float = 0.0  # spent training
    best_metrics: dict[str, float] = field(default_factory=dict)  # of the best checkpoint; empty before there is one


def pack(model: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> dict[str, bytes]:
    """The files of a checkpoint, but for the history."""
    from safetensors.torch import save

    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"position": asdict(position), "optimizer": optimizer.state_dict()}, buffer)
    return {MODEL: save(weights), TRAINING: buffer.getvalue()}


def unpack(files: Mapping[str, bytes], model: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Put model and optimizer into the state that was saved; UserError when it is another model's."""
    load_weights(files[MODEL], model)
    saved = torch.load(io.BytesIO(files[TRAINING]), weights_only=True)
    optimizer.load_state_dict(saved["optimizer"])
    return Position(**saved["position"])


def load_weights(data: bytes, model: nn.Module) -> None:
    """Put saved weights into the model; UserError when they do not fit."""
    from safetensors.torch import load

    try:
        model.load_state_dict(load(data))
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise UserError(f"the checkpoint's weights do not fit spec.model: {first}") from error
